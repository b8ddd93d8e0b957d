"""Stable-Baselines3, or its JAX counterpart SBX, as a worker: `stable_baselines.py sb3|sbx SPEC`. CartPole only."""

import functools
import sys
import time

import numpy as np
import torch
from protocol import COMMON, PLAIN_NETWORK, require, serve
from stable_baselines3.common.env_util import make_vec_env

DIFFERS = {"sb3": (), "sbx": ("hyperparams.vf_clip_eps",)}
PACKAGES = {"sb3": ("stable-baselines3", "torch"), "sbx": ("sbx-rl", "jax", "flax")}


def model_of(library, spec, seed):
    """Return a new model on new environments. Its value loss has no factor of one half, like ours."""
    config, h = spec["config"], spec["hyperparams"]
    require(spec, **COMMON)
    require(
        spec,
        config={"normalize_observations": False, "scale_rewards": False, "truncation": "bootstrap"},
        network=PLAIN_NETWORK | {"activation": "tanh"},
        hyperparams={"adam_eps": 1e-5},
    )
    networks = {"pi": spec["network"]["hidden_sizes"], "vf": spec["network"]["hidden_sizes"]}
    if library == "sb3":
        from stable_baselines3 import PPO

        policy = {"net_arch": networks, "activation_fn": torch.nn.Tanh}  # orthogonal and Adam eps 1e-5 by default
        options = {"clip_range_vf": h["vf_clip_eps"], "device": "cpu"}
    else:
        from sbx import PPO

        policy, options = {"net_arch": networks, "ortho_init": True}, {}  # tanh and Adam eps 1e-5 by default
    learning_rate, lr_anneal = h["learning_rate"], h["lr_anneal"]
    size = config["num_envs"] * config["num_steps"] // config["num_minibatches"]
    return PPO(
        "MlpPolicy",
        make_vec_env(spec["env"], n_envs=config["num_envs"], seed=seed),
        learning_rate=lambda left: learning_rate * (left if lr_anneal else 1.0),
        n_steps=config["num_steps"],
        batch_size=size,
        n_epochs=config["num_epochs"],
        gamma=h["gamma"],
        gae_lambda=h["gae_lambda"],
        clip_range=h["clip_eps"],
        ent_coef=h["ent_coef"],
        vf_coef=h["vf_coef"],
        max_grad_norm=h["max_grad_norm"],
        policy_kwargs=policy,
        seed=seed,
        **options,
    )


def final_return(model, total):
    """Return the mean return of the episodes that ended in the last tenth of `total` steps, as recorded by Monitor."""
    vec = model.get_env()
    returns, ends = vec.env_method("get_episode_rewards"), map(np.cumsum, vec.env_method("get_episode_lengths"))
    late = 0.9 * total / vec.num_envs
    finished = [r for rs, es in zip(returns, ends, strict=True) for r, e in zip(rs, es, strict=True) if e > late]
    return float(np.mean(finished)) if finished else None


def timed(model, total):
    """Return the seconds of learn() for `total` steps."""
    start = time.perf_counter()
    model.learn(total)
    return time.perf_counter() - start


def build(library, spec):
    """Run learn() for each request. To measure speed it is always the same model, because SBX compiles each model."""
    assert spec["num_seeds"] == 1, "one seed at a time"
    torch.set_num_threads(1)  # faster and less variable than more for layers of this size
    config = spec["config"]
    total, update = config["total_timesteps"], config["num_envs"] * config["num_steps"]
    shared = model_of(library, spec, 0)
    first, second = timed(shared, update), timed(shared, update)

    def run(seed):
        model = model_of(library, spec, seed) if spec.get("learning") else shared
        seconds = timed(model, total)
        returns = [final_return(model, total)] if spec.get("learning") else [None]
        return {"seconds": seconds, "env_steps": total, "final_returns": returns}

    return run, {"compile_seconds": first - second if library == "sbx" else None, "device": "cpu"}


if __name__ == "__main__":
    name = sys.argv[1]
    titles = {"sb3": "Stable-Baselines3", "sbx": "SBX"}
    serve(titles[name], (*PACKAGES[name], "gymnasium"), functools.partial(build, name), DIFFERS[name])
