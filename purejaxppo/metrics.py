"""Metrics of an iteration, reduced on the device: nothing per step leaves it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo._util.aliases import Params, PyTree
from purejaxppo._util.trees import nonfinite
from purejaxppo.batching import final_observations
from purejaxppo.batching.samples import Batch, Transition
from purejaxppo.config.schema import Hyperparams
from purejaxppo.envs.masks import action_mask, has_action
from purejaxppo.envs.spaces import Space
from purejaxppo.functional.diagnostics import Diagnostics, explained_variance
from purejaxppo.functional.episode_stats import EpisodeSummary
from purejaxppo.functional.objectives import kl_k3

Array = jax.Array


class Metrics(NamedTuple):
    """Metrics of one iteration, float32 scalars."""

    total_loss: Array  # (13); this and the next four are means over the minibatch steps taken
    policy_loss: Array
    value_loss: Array
    entropy: Array
    clip_fraction: Array  # share of samples whose gradient the clip of (7) removes, or would under other objectives
    grad_norm: Array  # before clipping
    max_ratio: Array  # over all minibatches whose step was not skipped
    first_ratio_error: Array  # max |w - 1| at the first minibatch; 0 up to rounding in a correct implementation
    minibatch_steps: Array  # steps taken; fewer than all after an early stop or with skipped steps
    kl: Array  # exact KL(π_old ‖ π) of the whole batch after the update
    kl_k3: Array  # the same, estimated by w - 1 - log w of the ratio w (4)
    explained_variance: Array  # of the targets by the values before the update
    advantage_std: Array  # before normalization
    masked_states: Array  # states of the rollout whose action mask allows no action
    nonfinite_observations: Array  # steps of the rollout with a NaN or infinite observation
    nonfinite_rewards: Array  # steps of the rollout with a NaN or infinite reward
    first_fault_step: Array  # first step of the rollout with one of these three; -1 if there is none
    first_fault_env: Array  # first environment with one of them in that step; -1 if there is none
    lost_final_observations: Array  # truncated steps without a slot: `VecEnv.truncation_gap` was not kept
    quarantined: Array  # steps of the rollout after which an environment that returned NaN or Inf was reset
    skipped_steps: Array  # minibatch steps without effect, because their loss, gradient or result was NaN or infinite
    skip_cause: Array  # of the first skipped step: 1 loss, 2 gradient, 3 result of all steps of the update; 0: none
    skipped_updates: Array  # updates in a row, up to this one, in which no step was taken for that reason
    stalled: Array  # 1 if these are more than `Config.max_skipped`
    nonfinite_parameters: Array  # NaN or infinite parameters after the update
    learning_rate: Array
    clip_eps: Array
    beta: Array
    num_episodes: Array  # episodes finished in this iteration; if 0, the statistics below are 0
    episode_return_mean: Array
    episode_return_min: Array
    episode_return_max: Array
    episode_length_mean: Array
    episode_length_min: Array
    episode_length_max: Array
    diagnostics: Diagnostics | tuple[()]  # () unless Config(diagnostics=True)
    extra: dict[str, Array] | tuple[()] = ()  # dict of scalars by name: `episode_info_...` and those of hooks


def flat(metrics: PyTree) -> dict[str, Array]:
    """Return all metrics by name; those of nested NamedTuples and dicts keep their own names."""
    values: dict[str, Array] = {}
    for name, x in metrics._asdict().items():
        if isinstance(x, tuple):
            values |= flat(x) if x else {}
        elif isinstance(x, dict):
            values |= x
        else:
            values[name] = x
    return values


class MinibatchStats(NamedTuple):
    """Statistics of one minibatch step, float32 scalars."""

    policy_loss: Array
    value_loss: Array
    entropy: Array
    clip_fraction: Array
    kl: Array
    max_ratio: Array
    first_ratio_error: Array
    grad_norm: Array  # before clipping


class Steps(NamedTuple):
    """The minibatch steps of an iteration, K epochs each."""

    stats: Array  # MinibatchStats, stacked, [K, num_minibatches, 8]
    taken: Array  # bool [K, num_minibatches]
    skipped: Array  # bool [K, num_minibatches], something was NaN or infinite; after an early stop nothing is skipped


NUM_MEANS = 5  # of the statistics above; the other two of a microbatch are maxima


def minibatch_stats(
    surrogate: Array, value_error: Array, entropy: Array, kl: Array, ratio: Array, clipped: Array
) -> Array:
    """Return the statistics of a microbatch, from values per sample [L, C]: MinibatchStats but grad_norm, [7].

    Each is reduced separately: stacking first makes XLA's CPU backend recompute the producers for each reduction.
    """
    change = jnp.abs(ratio - 1.0)
    means = (-surrogate, value_error, entropy, clipped.astype(jnp.float32), kl)
    return jnp.stack([*(x.mean() for x in means), ratio.max(), change.max()])


def merge_stats(stats: Array, norm: Array, unit: Array | float = 1.0) -> MinibatchStats:
    """Merge the statistics of the microbatches of a minibatch and add the norm of its gradient.

    Args:
        stats: [P, 7].
        norm: of the gradient in units of 1 / `unit`, [].
        unit: [], see `purejaxppo.optimizer.global_norm`.
    """
    merged = [*stats[:, :NUM_MEANS].mean(0), *stats[:, NUM_MEANS:].max(0), norm / unit]
    return MinibatchStats(*merged)


def is_finite_step(stats: MinibatchStats) -> Array:
    """Return whether the losses and the gradient of a minibatch are finite, bool []."""
    return jnp.isfinite(jnp.stack([stats.policy_loss, stats.value_loss, stats.entropy, stats.grad_norm])).all()


def skip_all_unless(finite: Array, steps: Steps) -> Steps:
    """Return the steps, with those that were taken marked as skipped unless their common result is `finite` []."""
    return steps._replace(taken=steps.taken & finite, skipped=steps.skipped | (steps.taken & ~finite))


def add_step(steps: Steps, finite: Array) -> Steps:
    """Return the steps with the last one marked as skipped if `finite` [] is false: for a step without statistics."""
    return steps._replace(skipped=steps.skipped.at[-1, -1].set(steps.skipped[-1, -1] | ~finite))


def unstack_stats(stacked: Array) -> MinibatchStats:
    """Return the statistics [..., 8] of many minibatches by name, [...] each."""
    return MinibatchStats(*jnp.moveaxis(stacked, -1, 0))


def batch_metrics(batch: Batch, ratio: Array, kl: Array) -> dict[str, Array]:
    """Return metrics of the whole batch under the updated policy.

    Args:
        batch: fields log_prob, value, advantage and target, [L, M].
        ratio: (4) under the updated policy, [L, M].
        kl: KL(π_old ‖ π), [L, M].
    """
    return {
        "kl": kl.mean(),
        "kl_k3": kl_k3(jnp.log(ratio)).mean(),
        "explained_variance": explained_variance(batch.value, batch.target),
        "advantage_std": jnp.std(batch.advantage),
        "quarantined": count_true(batch.quarantined),
    }


def count_true(flags: Array | tuple[()]) -> Array:
    """Count the true flags, bool of any shape; () counts as none. Returns float32 [].

    The sum of an empty array inside `jax.shard_map` crashes the compiler of jaxlib 0.11.2.
    """
    return jnp.float32(0.0) if isinstance(flags, tuple) else flags.sum(dtype=jnp.float32)


def rollout_faults(rollout: Transition, action_space: Space) -> dict[str, Array]:
    """Count the faults of the environment in a rollout: masked states, values that are not finite, early truncations.

    Args:
        rollout: fields obs, final_obs and reward, leaves [T, N, ...].
        action_space: of the environment.
    """
    shape = rollout.reward.shape
    masked = jnp.broadcast_to(~has_action(action_space, action_mask(rollout.obs)), shape)
    observation = nonfinite(rollout.obs, shape) | final_observations.nonfinite_steps(rollout)
    reward = nonfinite(rollout.reward, shape)
    faulty = masked | observation | reward
    step = jnp.argmax(faulty.any(axis=1))
    return {
        "masked_states": masked.sum(dtype=jnp.float32),
        "nonfinite_observations": observation.sum(dtype=jnp.float32),
        "nonfinite_rewards": reward.sum(dtype=jnp.float32),
        "first_fault_step": jnp.where(faulty.any(), step, -1).astype(jnp.float32),
        "first_fault_env": jnp.where(faulty.any(), jnp.argmax(faulty[step]), -1).astype(jnp.float32),
        "lost_final_observations": final_observations.count_lost(rollout),
    }


def skipped_metrics(steps: Steps, updates_before: Array, max_skipped: int) -> dict[str, Array]:
    """Return the metrics of the steps that were skipped.

    Args:
        steps: of the iteration.
        updates_before: updates in a row before this one without a step taken, because all were skipped, [].
        max_skipped: how many of them in a row do not end a run.
    """
    skipped = steps.skipped.ravel()
    stats = unstack_stats(steps.stats.reshape(-1, len(MinibatchStats._fields))[jnp.argmax(skipped)])
    losses = jnp.stack([stats.policy_loss, stats.value_loss, stats.entropy])
    cause = jnp.where(jnp.isfinite(losses).all(), jnp.where(jnp.isfinite(stats.grad_norm), 3.0, 2.0), 1.0)
    in_vain = skipped.any() & ~steps.taken.any()
    updates = jnp.where(in_vain, updates_before + 1.0, 0.0)
    return {
        "skipped_steps": skipped.sum(dtype=jnp.float32),
        "skip_cause": jnp.where(skipped.any(), cause, 0.0).astype(jnp.float32),
        "skipped_updates": updates,
        "stalled": (updates > max_skipped).astype(jnp.float32),
    }


def count_nonfinite(params: Params) -> Array:
    """Count the parameters that are NaN or infinite, float32 []."""
    return (~jnp.isfinite(ravel_pytree(params)[0])).sum(dtype=jnp.float32)


def reduce_metrics(
    steps: Steps,
    h: Hyperparams,
    episodes: EpisodeSummary,
    whole: dict[str, Array],
    diagnostics: Diagnostics | tuple[()] = (),
    extra: dict[str, Array] | None = None,
) -> Metrics:
    """Return the metrics of one iteration.

    Args:
        steps: of the iteration. Losses are averaged over the steps taken, `max_ratio` is the maximum over all that were
            not skipped, `first_ratio_error` is of the first.
        h: the hyperparameters in force.
        episodes: finished in the iteration.
        whole: of `batch_metrics`.
        diagnostics: if enabled.
        extra: of `mean_info` and of the hooks.
    """
    stats, taken, skipped = steps
    totals = jnp.sum(stats, (0, 1), where=taken[..., None])
    means = totals / jnp.maximum(taken.sum(dtype=jnp.float32), 1.0)
    means = dict(zip(MinibatchStats._fields, means, strict=True))
    named = unstack_stats(stats)
    means |= {
        "max_ratio": jnp.where(skipped, 0.0, named.max_ratio).max(),
        "first_ratio_error": named.first_ratio_error[0, 0],
    }
    del means["kl"]  # `whole` has the KL of the whole batch after the update
    total = means["policy_loss"] + h.vf_coef * means["value_loss"] - h.ent_coef * means["entropy"]
    in_force = {name: getattr(h, name) for name in ("learning_rate", "clip_eps", "beta")}
    episodes_by_name = {
        name if name == "num_episodes" else f"episode_{name}": x for name, x in episodes._asdict().items()
    }
    return Metrics(
        total,
        **means,
        **whole,
        **in_force,
        **episodes_by_name,
        minibatch_steps=taken.sum(dtype=jnp.float32),
        diagnostics=diagnostics,
        extra=extra or (),
    )
