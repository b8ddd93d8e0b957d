"""What a run is made of: its parts, its state, a rollout, what the epochs read, and the numbers it reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.burn_in import LeadingSteps
from purejaxppo.config import Config, Hyperparams
from purejaxppo.diagnostics import Diagnostics
from purejaxppo.environment import Env, VecEnv
from purejaxppo.networks import Network
from purejaxppo.statistics import EpisodeStats, EpisodeSummary, RewardScaler, RunningMoments
from purejaxppo.trust_region import Control

Array = jax.Array


class TrainState(NamedTuple):
    """Everything a run is: with it and the hyperparameters the rest of the run is determined."""

    params: Any
    opt_state: Any
    env_state: Any  # [N, ...]
    obs: Any  # [N, ...] what to act on next, as the environment gave it
    carry: Any  # [N, ...] the network's memory before `obs`; () for feed-forward networks
    reset: Array  # [N] `obs` is the first of an episode
    obs_moments: RunningMoments  # moved at the end of an iteration only
    reward_scaler: RewardScaler
    control: Control
    last_reward: Array  # mean reward per step of the rollout before; NaN at first
    episodes: EpisodeStats  # [N] of the running episodes
    key: Array
    num_updates: Array  # int32; one update is num_envs * num_steps timesteps


class Transition(NamedTuple):
    """A rollout, leaves [T, N, ...]."""

    obs: Any
    action: Any
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Any  # what the action led to, before any reset
    distribution: Any  # π_old(·|s_t)
    carry: Any  # before the step
    reset: Array


class Batch(NamedTuple):
    """What the epochs read: sequences, leaves [L, M, ...]; the carry is that of the first step, [1, M, ...]."""

    obs: Any
    reset: Array
    carry: Any
    action: Any
    distribution: Any
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    lead_in: LeadingSteps | tuple[()] = ()  # the steps before, where there is a burn-in


class Metrics(NamedTuple):
    """One iteration in numbers, float32 scalars."""

    total_loss: Array  # (13); this and the next three: mean over the minibatch steps taken
    policy_loss: Array
    value_loss: Array
    entropy: Array
    clip_fraction: Array
    grad_norm: Array  # before clipping
    max_ratio: Array  # over all minibatches
    first_ratio_error: Array  # max |r - 1| at the first minibatch: 0 up to rounding, or something is wrong
    minibatch_steps: Array  # taken; fewer than all after an early stop
    kl: Array  # exact KL(old || new), whole batch, after the update
    kl_k3: Array  # the same by the estimator r - 1 - log r
    explained_variance: Array  # of the targets by the values before the update
    advantage_std: Array  # before normalisation
    learning_rate: Array
    clip_eps: Array
    beta: Array
    num_episodes: Array  # finished in this iteration; the rest is NaN where none was
    episode_return_mean: Array
    episode_return_min: Array
    episode_return_max: Array
    episode_length_mean: Array
    episode_length_min: Array
    episode_length_max: Array
    diagnostics: Diagnostics | tuple[()]  # () unless Config(diagnostics=True)


class Parts(NamedTuple):
    """What `make_ppo` was given, names resolved to functions."""

    env: VecEnv
    network: Network
    config: Config
    objective: Callable[..., Array]  # (ratio, advantage, kl, hyperparams) -> per-sample surrogate, maximised
    target_fn: Callable[..., tuple[Array, Array]]
    shuffle: Callable[[Array, int], Array]  # (key, size) -> order
    normalized: tuple[bool, ...]  # which leaves of an observation are normalised


class Algorithm(NamedTuple):
    """A pair of pure functions, and what they were made of."""

    init: Callable[[Array, Hyperparams], TrainState]
    update: Callable[[TrainState, Hyperparams], tuple[TrainState, Metrics]]
    env: Env
    network: Network
    config: Config


def flat(metrics: Any) -> dict[str, Any]:
    """Every number of a NamedTuple of metrics under its own name, those of a NamedTuple inside it (or `()`) too."""
    numbers: dict[str, Any] = {}
    for name, x in metrics._asdict().items():
        if isinstance(x, tuple):
            numbers |= flat(x) if x else {}
        else:
            numbers[name] = x
    return numbers


def strongly_typed(tree: Any) -> Any:
    """The same arrays without weak types, which an update would strip: then a second compile for the same program."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else jax.lax.convert_element_type(x, x.dtype), tree)


REPORT = ("policy_loss", "value_loss", "entropy", "clip_fraction", "kl", "max_ratio", "first_ratio_error", "grad_norm")


def report(surrogate: Array, errors: Array, entropy: Array, kl: Array, ratio: Array, clip_eps: Array) -> Array:
    """What a part of a minibatch says of itself, from numbers per sample [L, C]: the first seven of REPORT, [7].

    A reduction each: of all of them stacked, a CPU would compute everything before them once more for every one.
    """
    change = jnp.abs(ratio - 1.0)
    means = (-surrogate, errors, entropy, (change > clip_eps).astype(jnp.float32), kl)
    return jnp.stack([*(x.mean() for x in means), ratio.max(), change.max()])


def joined(reports: Array, grad_norm: Array) -> Array:
    """The reports [P, 7] of the parts of a minibatch and the norm of its gradient as one, [8]: REPORT."""
    return jnp.concatenate([reports[:, :5].mean(0), reports[:, 5:].max(0), grad_norm[None]])


def reduce_metrics(steps: Array, taken: Array, h: Hyperparams, episodes: EpisodeSummary, **rest: Any) -> Metrics:
    """Metrics of one iteration. steps: REPORT of every minibatch step, [K, num_minibatches, 8]; taken: those that moved.

    Means are over the steps taken; the greatest ratio is over all of them, and `first_ratio_error` that of the first.
    """
    mean = dict(zip(REPORT, jnp.mean(steps, (0, 1), where=taken[..., None]), strict=True))
    del mean["kl"]  # `rest` has that of the whole batch, after the update
    highest, first = REPORT.index("max_ratio"), REPORT.index("first_ratio_error")
    mean |= {"max_ratio": steps[..., highest].max(), "first_ratio_error": steps[0, 0, first]}
    total = mean["policy_loss"] + h.vf_coef * mean["value_loss"] - h.ent_coef * mean["entropy"]
    named = {name if name == "num_episodes" else f"episode_{name}": x for name, x in episodes._asdict().items()}
    return Metrics(total, **mean, **named, **rest, minibatch_steps=taken.sum(dtype=jnp.float32))
