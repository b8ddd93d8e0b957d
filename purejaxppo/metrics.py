"""The numbers that an iteration reports, and how they are reduced on the device: nothing per step leaves it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.config.schema import Hyperparams
from purejaxppo.functional.diagnostics import Diagnostics
from purejaxppo.functional.episode_stats import EpisodeSummary
from purejaxppo.functional.objectives import kl_k3

Array = jax.Array


class Metrics(NamedTuple):
    """One iteration in numbers, float32 scalars."""

    total_loss: Array  # (13); this and the next three: mean over the minibatch steps taken
    policy_loss: Array
    value_loss: Array
    entropy: Array
    clip_fraction: Array
    grad_norm: Array  # before clipping
    max_ratio: Array  # over all minibatches
    first_ratio_error: Array  # max |w - 1| at the first minibatch: 0 up to rounding, or something is wrong
    minibatch_steps: Array  # taken; fewer than all after an early stop
    kl: Array  # exact KL(old || new), whole batch, after the update
    kl_k3: Array  # the same by the estimator w - 1 - log w of the ratio w (4)
    explained_variance: Array  # of the targets by the values before the update
    advantage_std: Array  # before normalisation
    undefined_actions: Array  # states where the policy was no distribution: every action was masked
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


def flat(metrics: Any) -> dict[str, Any]:
    """Every number of a NamedTuple of metrics under its own name, those of a NamedTuple inside it (or `()`) too."""
    numbers: dict[str, Any] = {}
    for name, x in metrics._asdict().items():
        if isinstance(x, tuple):
            numbers |= flat(x) if x else {}
        else:
            numbers[name] = x
    return numbers


REPORT = ("policy_loss", "value_loss", "entropy", "clip_fraction", "kl", "max_ratio", "first_ratio_error", "grad_norm")


def report(surrogate: Array, errors: Array, entropy: Array, kl: Array, ratio: Array, clip_eps: Any) -> Array:
    """What a part of a minibatch says of itself, from numbers per sample [L, C]: the first seven of REPORT, [7].

    A reduction each: of all of them stacked, a CPU would compute everything before them once more for every one.
    """
    change = jnp.abs(ratio - 1.0)
    means = (-surrogate, errors, entropy, (change > clip_eps).astype(jnp.float32), kl)
    return jnp.stack([*(x.mean() for x in means), ratio.max(), change.max()])


def merge_stats(reports: Array, grad_norm: Array) -> Array:
    """The reports [P, 7] of the parts of a minibatch and the norm of its gradient as one, [8]: REPORT."""
    return jnp.concatenate([reports[:, :5].mean(0), reports[:, 5:].max(0), grad_norm[None]])


def describe(batch: Any, ratio: Array, kl: Array) -> dict[str, Any]:
    """What is to be said of a whole batch after the update; ratio (4) and exact KL of the new policy, [L, M]."""
    unexplained = jnp.var(batch.target - batch.value) / jnp.var(batch.target)
    return {
        "kl": kl.mean(),
        "kl_k3": kl_k3(jnp.log(ratio)).mean(),
        "explained_variance": 1.0 - unexplained,
        "advantage_std": jnp.std(batch.advantage),
        "undefined_actions": jnp.isnan(batch.log_prob).sum(dtype=jnp.float32),
        "diagnostics": (),
    }


def reduce_metrics(done: tuple[Array, Array], h: Hyperparams, episodes: EpisodeSummary, **rest: Any) -> Metrics:
    """Metrics of one iteration. done: REPORT of each minibatch step, [K, num_minibatches, 8], and which ones moved.

    Means are over the steps taken; the greatest ratio is over all of them, and `first_ratio_error` that of the first.
    """
    steps, taken = done
    mean = dict(zip(REPORT, jnp.mean(steps, (0, 1), where=taken[..., None]), strict=True))
    del mean["kl"]  # `rest` has that of the whole batch, after the update
    highest, first = REPORT.index("max_ratio"), REPORT.index("first_ratio_error")
    mean |= {"max_ratio": steps[..., highest].max(), "first_ratio_error": steps[0, 0, first]}
    total = mean["policy_loss"] + h.vf_coef * mean["value_loss"] - h.ent_coef * mean["entropy"]
    named = {name if name == "num_episodes" else f"episode_{name}": x for name, x in episodes._asdict().items()}
    return Metrics(total, **mean, **named, **rest, minibatch_steps=taken.sum(dtype=jnp.float32))
