"""JaxMARL's IPPO for MPE from a local checkout as a worker: baselines/IPPO/ippo_ff_mpe.py, unchanged."""

import argparse
import functools
import pathlib
import sys
import types
from unittest import mock

import jax
import numpy as np
from protocol import jax_worker, serve, tenth, whole

AGENTS = 3
UNUSED = ("hydra", "omegaconf", "wandb")


def load(checkout):
    """Return the module of the script. What it imports to read settings and to log is mocked."""
    sys.modules.update({name: mock.MagicMock() for name in UNUSED})
    script = checkout / "baselines" / "IPPO" / "ippo_ff_mpe.py"
    module = types.ModuleType(script.stem)
    exec(compile(script.read_text(), str(script), "exec"), module.__dict__)
    return module


def translated(spec):
    """Return its config, which counts environments. Its value loss has a factor of one half."""
    config, h = spec["config"], spec["hyperparams"]
    assert h["vf_clip_eps"] == h["clip_eps"], "it has one range for both clips"
    assert spec["network"]["hidden_sizes"] == [64, 64]
    return {
        "ENV_NAME": spec["env"].removeprefix("jaxmarl/"),
        "ENV_KWARGS": spec["env_params"],
        "NUM_ENVS": config["num_envs"] // AGENTS,
        "NUM_STEPS": config["num_steps"],
        "TOTAL_TIMESTEPS": config["total_timesteps"] // AGENTS,
        "UPDATE_EPOCHS": config["num_epochs"],
        "NUM_MINIBATCHES": config["num_minibatches"],
        "LR": h["learning_rate"],
        "ANNEAL_LR": h["lr_anneal"] == 1.0,
        "GAMMA": h["gamma"],
        "GAE_LAMBDA": h["gae_lambda"],
        "CLIP_EPS": h["clip_eps"],
        "ENT_COEF": h["ent_coef"],
        "VF_COEF": 2.0 * h["vf_coef"],
        "MAX_GRAD_NORM": h["max_grad_norm"],
        "ACTIVATION": "tanh",
    }


def build(checkout, spec):
    """Train one seed in one program; its logging, a callback of every update, does nothing."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    one = load(checkout).make_train(translated(spec))

    def train(keys):
        return one(keys[0])

    def keys(seeds):
        return jax.vmap(jax.random.PRNGKey)(seeds)

    def final_returns(out):
        """Its returns are the sums over the team of each agent's: divide by the agents."""
        returns = np.asarray(out["metrics"]["returned_episode_returns"], np.float64)
        return [returns[-tenth(whole(spec)) :].mean() / AGENTS]

    return jax_worker(train, keys, final_returns, spec)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=pathlib.Path, required=True)
    parser.add_argument("spec")
    packages = ("jax", "jaxlib", "flax", "optax", "distrax", "jaxmarl")
    serve("JaxMARL", packages, functools.partial(build, parser.parse_args().checkout))
