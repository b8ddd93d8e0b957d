"""Functions that a user hands to `make_ppo` to extend the algorithm: their types, and checks of what they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from purejaxppo._util.aliases import Observation, Params, PRNGKey, PyTree, Shapes
from purejaxppo._util.programs import is_tracing, jit_once
from purejaxppo.batching.samples import Batch, Transition
from purejaxppo.batching.shuffles import Shuffle
from purejaxppo.config.schema import Hyperparams, sample_hyperparams
from purejaxppo.functional.bindings import Objective, TargetFn

AuxiliaryLoss = Callable[[Params, Batch, Hyperparams], Array]
"""(params, batch, hyperparams) -> a scalar that is added to the loss (13). `batch.next_obs` holds the observation after
each action, before any reset. Parameters of the auxiliary loss are part of the network's parameters."""

MetricsFn = Callable[[PyTree, Transition, Batch, Hyperparams], dict[str, Array]]
"""(state after the rollout, rollout, batch, hyperparams) -> scalars by name, for `Metrics.extra`."""


class IntrinsicReward(NamedTuple):
    """A reward computed by the agent, with its own state: parameters, optimizer, statistics.

    `apply` gets a whole rollout before the targets are computed. It returns its next state, a reward for every step,
    and scalars for `Metrics.extra`. Returns of episodes do not include the intrinsic reward.
    """

    init: Callable[[PRNGKey, Observation], PyTree]  # (key, observations [N, ...]) -> state
    apply: Callable[[PyTree, Transition, Hyperparams], tuple[PyTree, Array, dict[str, Array]]]
    # (state, rollout [T, N, ...], hyperparams) -> (state, reward [T, N], metrics)


def no_auxiliary_loss(params: Params, batch: Batch, h: Hyperparams) -> Array:
    """Return 0, the default of `make_ppo`."""
    return jnp.float32(0.0)


def no_metrics(state: PyTree, rollout: Transition, batch: Batch, h: Hyperparams) -> dict[str, Array]:
    """Return no metrics, the default of `make_ppo`."""
    return {}


def check_objective(objective: Objective) -> Objective:
    """Return `objective` with a check of its result: one surrogate per sample, finite near ratio 1."""

    def checked(ratio: Array, advantage: Array, kl: Array, h: Hyperparams) -> Array:
        surrogate = objective(ratio, advantage, kl, h)
        _expect("objective", ratio, surrogate)
        return surrogate

    @jit_once
    def values(h: Hyperparams) -> tuple[Array, tuple[Array, Array]]:
        """Return surrogates [3, 1] and their derivatives by ratio and KL divergence; a first minibatch has ratio 1."""
        ratio = jnp.array([[0.9], [1.0], [1.1]], jnp.float32)
        advantage = jnp.array([[-1.0], [0.5], [1.0]], jnp.float32)
        surrogate, pullback = jax.vjp(lambda ratio, kl: checked(ratio, advantage, kl, h), ratio, 0.05 * ratio)
        return surrogate, pullback(jnp.ones_like(surrogate))

    if not is_tracing():
        results, derivatives = zip(*map(values, sample_hyperparams()), strict=True)
        _expect_finite("objective", results)
        _expect_finite("objective (its derivative)", derivatives)
    return checked


def check_target_fn(target_fn: TargetFn) -> TargetFn:
    """Return `target_fn` with a check of its result: advantages and targets [T, N], finite for finite rewards."""

    def checked(rewards: Array, *rest: PyTree) -> tuple[Array, Array]:
        result = target_fn(rewards, *rest)
        _expect("target_fn", (rewards, rewards), result)
        return result

    @jit_once
    def values(h: Hyperparams) -> tuple[Array, Array]:
        ones = jnp.ones((3, 2), jnp.float32)
        never = jnp.zeros((3, 2), bool)
        return checked(ones, ones, ones, never, never, h, 2)

    if not is_tracing():
        _expect_finite("target_fn", tuple(map(values, sample_hyperparams())))
    return checked


def check_shuffle(shuffle: Shuffle, size: int) -> Shuffle:
    """Return `shuffle` with a check of its result: a permutation of 0..size-1, int32 [size].

    Args:
        shuffle: (key, size) -> permutation.
        size: number of sequences of a rollout, which the permutation is checked for.
    """

    def checked(key: PRNGKey, size: int) -> Array:
        order = shuffle(key, size)
        _expect("shuffle", jax.ShapeDtypeStruct((size,), jnp.int32), order)
        return order

    order = checked(jax.random.key(0), size)
    if not isinstance(order, Tracer) and not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(f"shuffle: expected a permutation of 0..{size - 1}, got one that misses some of them")
    return checked


def check_auxiliary_loss(auxiliary_loss: AuxiliaryLoss) -> AuxiliaryLoss:
    """Return `auxiliary_loss` with a check of its result: a float32 scalar."""

    def checked(params: Params, batch: Batch, h: Hyperparams) -> Array:
        loss = auxiliary_loss(params, batch, h)
        _expect("auxiliary_loss", jax.ShapeDtypeStruct((), jnp.float32), loss)
        return loss

    return checked


def check_intrinsic(intrinsic: IntrinsicReward) -> IntrinsicReward:
    """Return `intrinsic` with a check of its results: the same kind of state, rewards [T, N], a dict of scalars."""

    def checked(state: PyTree, rollout: Transition, h: Hyperparams) -> tuple[PyTree, Array, dict[str, Array]]:
        result = intrinsic.apply(state, rollout, h)
        if not (isinstance(result, tuple) and len(result) == 3):
            raise ValueError("intrinsic: apply must return (state, reward [T, N], metrics)")
        after, reward, metrics = result
        _expect("intrinsic (its state)", state, after)
        _expect("intrinsic (its reward)", rollout.reward, reward)
        _expect_scalars("intrinsic (its metrics)", metrics)
        return result

    return intrinsic._replace(apply=checked)


def check_metrics_fn(metrics_fn: MetricsFn) -> MetricsFn:
    """Return `metrics_fn` with a check of its result: a dict of float32 scalars by name."""

    def checked(state: PyTree, rollout: Transition, batch: Batch, h: Hyperparams) -> dict[str, Array]:
        metrics = metrics_fn(state, rollout, batch, h)
        _expect_scalars("metrics_fn", metrics)
        return metrics

    return checked


def abstract_hyperparams() -> Hyperparams:
    """Return the shapes and dtypes of hyperparameters, for tracing."""
    return jax.eval_shape(lambda: jax.tree.map(jnp.float32, Hyperparams()))


def _describe(tree: PyTree) -> str:
    """Describe structure, shapes and dtypes of a tree, for messages."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x), tree))


def _expect(hook: str, expected: Shapes, found: PyTree) -> None:
    if _describe(expected) != _describe(found):
        raise ValueError(f"{hook}: expected {_describe(expected)}, got {_describe(found)}")


def _expect_finite(hook: str, results: tuple[PyTree, ...]) -> None:
    """Raise ValueError if every result contains NaN or infinity; skip the check while tracing."""
    if any(isinstance(x, Tracer) for x in jax.tree.leaves(results)):
        return
    if not any(all(np.isfinite(x).all() for x in jax.tree.leaves(result)) for result in results):
        value = next(x for x in jax.tree.leaves(results[0]) if not np.isfinite(x).all())
        raise ValueError(f"{hook}: expected finite numbers for finite input, got {value.tolist()}")


def _expect_scalars(hook: str, found: PyTree) -> None:
    scalar = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in found} if isinstance(found, dict) else {}
    if not isinstance(found, dict) or _describe(scalar) != _describe(found):
        raise ValueError(f"{hook}: expected a dict of float32 scalars by name, got {_describe(found)}")
