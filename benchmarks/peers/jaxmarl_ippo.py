"""JaxMARL's IPPO for MPE from a local checkout as a worker: baselines/IPPO/ippo_ff_mpe.py, unchanged."""

import sys
import types
from unittest import mock

import jax
import numpy as np
from protocol import jax_worker, require, script_config, serve_checkout, tenth, whole

AGENTS = 3
UNUSED = ("hydra", "omegaconf", "wandb")
DIFFERS = ("config.truncation",)


def load(checkout):
    """Return the module of the script. What it imports to read settings and to log is mocked."""
    sys.modules.update({name: mock.MagicMock() for name in UNUSED})
    script = checkout / "baselines" / "IPPO" / "ippo_ff_mpe.py"
    module = types.ModuleType(script.stem)
    exec(compile(script.read_text(), str(script), "exec"), module.__dict__)
    return module


def translated(spec):
    """Return its config, which counts environments instead of agents."""
    config = script_config(spec)
    require(spec, config={"normalize_observations": False, "scale_rewards": False})
    return config | {
        "ENV_NAME": spec["env"].removeprefix("jaxmarl/"),
        "ENV_KWARGS": dict(spec["env_params"]),
        "NUM_ENVS": config["NUM_ENVS"] // AGENTS,
        "TOTAL_TIMESTEPS": config["TOTAL_TIMESTEPS"] // AGENTS,
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
    serve_checkout("JaxMARL", ("jax", "jaxlib", "flax", "optax", "distrax", "jaxmarl"), build, DIFFERS)
