"""XLand-MiniGrid's recurrent PPO from a local checkout as a worker: training/train_single_task.py, unchanged."""

import dataclasses
import importlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from protocol import COMMON, jax_worker, load_script, require, serve_checkout, tenth, whole

EPISODES = 80  # of its evaluation after every update, as published


def load(checkout):
    """Return the module of the script. What it imports to read settings and to log is mocked.

    The counters of its evaluation have arrays as defaults, which dataclasses refuse since Python 3.11 because arrays
    have no hash. While the script is imported, its arrays are numbers; packages are imported before.
    """
    for package in ("distrax", "flax.training.train_state", "xminigrid.wrappers"):
        importlib.import_module(package)
    unused = {name: mock.MagicMock() for name in ("pyrallis", "wandb")}
    with mock.patch.object(jnp, "asarray", lambda x: np.asarray(x)[()]):
        return load_script(checkout / "training" / "train_single_task.py", unused)


def settings(spec):
    """Return its settings. Its value loss has a factor of one half, so its coefficient is twice ours.

    Its evaluation is part of the program of an update. There is none in a timed run.
    """
    config, h, network = spec["config"], spec["hyperparams"], spec["network"]
    assert spec["published"].removesuffix("_patches") == "xland"
    assert config["sequence_length"] in (0, config["num_steps"])
    require(spec, **COMMON)
    require(
        spec,
        config={"truncation": "terminal", "burn_in": 0, "normalize_observations": False, "scale_rewards": False},
        hyperparams={"vf_clip_eps": h["clip_eps"], "lr_anneal": 1.0, "adam_eps": 1e-8},
    )
    (head_size,) = network["hidden_sizes"]
    return {
        "env_id": spec["env"].removeprefix("xland/"),
        "obs_emb_dim": network["embedding_size"],
        "rnn_hidden_dim": network["rnn_size"],
        "head_hidden_dim": head_size,
        "num_envs": config["num_envs"],
        "num_steps": config["num_steps"],
        "update_epochs": config["num_epochs"],
        "num_minibatches": config["num_minibatches"],
        "total_timesteps": config["total_timesteps"],
        "lr": h["learning_rate"],
        "clip_eps": h["clip_eps"],
        "gamma": h["gamma"],
        "gae_lambda": h["gae_lambda"],
        "ent_coef": h["ent_coef"],
        "vf_coef": 2.0 * h["vf_coef"],
        "max_grad_norm": h["max_grad_norm"],
        "eval_episodes": EPISODES if spec.get("learning") else 0,
    }


def build(checkout, spec):
    """Train one seed in one program, on as many devices as there are."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    module = load(checkout)
    config = module.TrainConfig(**settings(spec))
    devices = jax.local_device_count()

    def train(seeds):
        key, env, env_params, rnn_state, state = module.make_states(dataclasses.replace(config, seed=seeds[0]))
        state, rnn_state = jax.tree.map(lambda x: jnp.stack([x] * devices), (state, rnn_state))
        out = module.make_train(env, env_params, config)(jax.random.split(key, devices), state, rnn_state)
        return {"params": out["runner_state"][1].params, "returns": out["loss_info"]["eval/returns"][0]}

    def final_returns(out):
        """Its returns are those of the evaluations in the last tenth; NaN without evaluation."""
        return [np.asarray(out["returns"], np.float64)[-tenth(whole(spec)) :].mean()]

    return jax_worker(train, jnp.asarray, final_returns, spec)


if __name__ == "__main__":
    serve_checkout("XLand-MiniGrid", ("jax", "jaxlib", "flax", "optax", "distrax", "xminigrid"), build)
