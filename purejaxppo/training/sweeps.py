"""Many seeds times many hyperparameter settings as one program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.config.schema import Hyperparams
from purejaxppo.devices.cpu import SMALL_MINIBATCH
from purejaxppo.devices.sharding import largest_device_count, shard_runs
from purejaxppo.metrics import Metrics
from purejaxppo.training.loop import as_traced, check_actions, checked_length
from purejaxppo.types import Algorithm, TrainState

Array = jax.Array

CACHED_RUNS = 16


def sweep(
    algo: Algorithm, keys: Array, hyperparams: Hyperparams, num_updates: int | None = None
) -> tuple[TrainState, Metrics]:
    """Train every setting with every seed -> (states [H, S, ...], metrics [H, S, num_updates]).

    One program, compiled once for any numbers of the same shapes. Runs are shared out among all local devices, or as
    many as divide their number; on each they run side by side, or one after the other where that is faster. Where
    there is nothing to share out, or `Config.num_devices` is above 1, the devices share each run.
    keys [S]: one typed key per seed; the settings share them, so that they are compared on the same luck.
    hyperparams: each field a number or an array [H]; the arrays vary together (zip, not product).
    Raises ValueError where two arrays differ in length or have more than one axis, and what `train` raises.
    """
    h = as_traced(hyperparams)
    shapes = {name: x.shape for name, x in h._asdict().items() if x.shape}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"hyperparameters must be numbers or vectors of one length H, got {shapes}")
    num_settings = next(iter(shapes.values()), (1,))[0]
    settings = Hyperparams(*(jnp.broadcast_to(x, (num_settings,)) for x in h))

    count = num_settings * len(keys)
    devices = 1 if algo.config.num_devices > 1 else largest_device_count(count, count)
    at_once = runs_at_once(count // devices, algo.config.timesteps_per_update // algo.config.num_minibatches)
    length = checked_length(algo, h, 0, num_updates)
    states, metrics = _grid(algo.init, algo.update, length, devices, at_once, keys, settings)
    check_actions(algo, metrics)
    return states, metrics


def runs_at_once(count: int, minibatch_size: int) -> int:
    """How many of `count` runs a device does side by side; it does such groups one after the other.

    Side by side, small operations of several runs become one larger. On a CPU that pays where they are small (at most
    SMALL_MINIBATCH samples) and only for so many that they fit its caches; anything else does all at once.
    """
    if jax.default_backend() != "cpu":
        return count
    limit = min(CACHED_RUNS, count) if minibatch_size <= SMALL_MINIBATCH else 1
    at_once = next(n for n in range(limit, 0, -1) if count % n == 0)
    return at_once if 2 * at_once > limit else count


@partial(jax.jit, static_argnames=("init", "update", "num_updates", "num_devices", "at_once"))
def _grid(
    init: Callable[..., Any],
    update: Callable[..., Any],
    num_updates: int,
    num_devices: int,
    at_once: int,
    keys: Array,
    settings: Hyperparams,
) -> Any:
    num_settings, num_seeds = jnp.shape(settings.gamma)[0], len(keys)

    def run(key: Array, h: Hyperparams) -> Any:
        return jax.lax.scan(lambda state, _: update(state, h), init(key, h), length=num_updates)

    def share(keys: Array, varied: Any, alike: Any) -> Any:
        def one(args: tuple[Array, Any]) -> Any:
            return run(args[0], args[1] or alike)

        if at_once == len(keys) > 1:
            return jax.vmap(one)((keys, varied))
        return jax.lax.map(one, (keys, varied), batch_size=at_once if at_once > 1 else None)

    # Runs lie along one axis: over two of them a CPU's matrix products are a quarter slower, even if one has length 1.
    if num_settings == 1:
        every_key, varied, alike = keys, (), jax.tree.map(lambda x: x[0], settings)
    else:
        every_key = jnp.broadcast_to(keys, (num_settings, num_seeds)).reshape(-1)
        varied, alike = jax.tree.map(lambda x: jnp.repeat(x, num_seeds), settings), ()
    results = shard_runs(share, num_devices)(every_key, varied, alike)
    return jax.tree.map(lambda x: x.reshape(num_settings, num_seeds, *x.shape[1:]), results)
