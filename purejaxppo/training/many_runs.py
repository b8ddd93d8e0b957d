"""Execute many independent runs in one program: among the devices, and on each side by side or one after the other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from purejaxppo._util.aliases import PyTree
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.devices.cpu import SMALL_MINIBATCH
from purejaxppo.devices.sharding import AXIS, largest_device_count, mesh, shard_runs
from purejaxppo.metrics import Metrics
from purejaxppo.training.health import RunWarning, failed_runs, faults_of_runs

SplitHyperparams: TypeAlias = tuple[Hyperparams | tuple[()], Hyperparams | tuple[()]]  # (varied, shared)

CACHED_RUNS = 16
MOST_NAMED = 5  # failed runs that a warning describes one by one


def partition_runs(config: Config, count: int) -> tuple[int, int]:
    """Return the number of devices that `count` runs are divided among, and how many each executes side by side.

    If `Config.num_devices` is above 1, the devices share each run instead.
    """
    num_devices = 1 if config.num_devices > 1 else largest_device_count(count, count)
    return num_devices, runs_at_once(count // num_devices, config.timesteps_per_update // config.num_minibatches)


def runs_at_once(count: int, minibatch_size: int) -> int:
    """Return how many of `count` runs a device executes side by side; such groups follow each other.

    Side by side, small operations of several runs become one larger operation. On a CPU this is faster only for small
    operations (at most SMALL_MINIBATCH samples), and only for as many runs as fit its caches. Other devices execute all
    runs at once.
    """
    if jax.default_backend() != "cpu":
        return count
    limit = min(CACHED_RUNS, count) if minibatch_size <= SMALL_MINIBATCH else 1
    at_once = next(n for n in range(limit, 0, -1) if count % n == 0)
    return at_once if 2 * at_once > limit else count


def map_runs(
    run: Callable[[PyTree, PyTree], PyTree], num_devices: int, at_once: int, runs: PyTree, shared: PyTree
) -> PyTree:
    """Return `run(one, shared)` for every entry of `runs` along the leading axis of its leaves, [R, ...].

    The runs lie along one axis: with two axes the matrix products of a CPU are a quarter slower, even if one of them
    has length 1.
    """

    def on_device(runs: PyTree, shared: PyTree) -> PyTree:
        count = len(jax.tree.leaves(runs)[0])
        if at_once == count > 1:
            return jax.vmap(lambda one: run(one, shared))(runs)
        return jax.lax.map(lambda one: run(one, shared), runs, batch_size=at_once if at_once > 1 else None)

    return shard_runs(on_device, num_devices)(runs, shared)


def split_hyperparams(h: Hyperparams, shape: tuple[int, ...], caller: str) -> SplitHyperparams:
    """Divide hyperparameters into those that vary between runs and those that all runs share.

    Args:
        h: each field a scalar, or an array along the first axis of `shape`.
        shape: axes of the runs, [S] or [H, S].
        caller: name of the public function, for the message.

    Returns:
        A pair (varied, shared): Hyperparams with leaves [R] and (), or () and Hyperparams of scalars.

    Raises:
        ValueError: an array of another shape.
    """
    shapes = {name: x.shape for name, x in h._asdict().items() if x.shape}
    if not shapes:
        return (), h
    if any(other != shape[:1] for other in shapes.values()):
        raise ValueError(
            f"{caller} takes hyperparameters that are scalars or arrays of shape {shape[:1]}, not {shapes}"
        )
    per_setting = math.prod(shape[1:])
    return Hyperparams(*(jnp.repeat(jnp.broadcast_to(x, shape[:1]), per_setting) for x in h)), ()


def place_runs(tree: PyTree, num_devices: int) -> PyTree:
    """Put leaves [R, ...] where `map_runs` leaves its results, so that all calls of a loop share one program."""
    if num_devices == 1:
        return tree
    return jax.device_put(tree, NamedSharding(mesh(num_devices), PartitionSpec(AXIS)))


@partial(jax.jit, static_argnames="axes")
def flatten_runs(tree: PyTree, axes: int) -> PyTree:
    """Merge the leading `axes` axes of every leaf, [H, S, ...] -> [R, ...]."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[axes:]), tree)


@partial(jax.jit, static_argnames="shape")
def unflatten_runs(tree: PyTree, shape: tuple[int, ...]) -> PyTree:
    """Split the leading axis of every leaf, [R, ...] -> [*shape, ...]."""
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), tree)


def warn_of_failed_runs(env_name: str, metrics: Metrics, known: np.ndarray, first_update: int = 0) -> np.ndarray:
    """Warn of the runs that failed, and return which ones, with those known before.

    Args:
        env_name: for the message.
        metrics: leaves [..., U].
        known: runs that were reported before, bool [...].
        first_update: updates done before these.
    """
    faults = faults_of_runs(metrics, env_name, first_update)
    lines = [f"  run {list(index)}: {fault.message}" for index, fault in faults.items() if not known[index]]
    if not lines:
        return known
    runs = "1 run" if len(lines) == 1 else f"{len(lines)} runs"
    if len(lines) > MOST_NAMED:
        lines = [*lines[:MOST_NAMED], f"  and {len(lines) - MOST_NAMED} more"]
    text = f"{runs} of {known.size} failed; failed_runs(metrics) marks them, and the other runs are not affected"
    warnings.warn("\n".join([text, *lines]), RunWarning, stacklevel=3)
    return known | failed_runs(metrics)
