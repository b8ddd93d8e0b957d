"""Many seeds times many hyperparameter settings as one program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.config import Hyperparams
from purejaxppo.devices import largest_share, spread
from purejaxppo.metrics import Metrics
from purejaxppo.state import Algorithm, TrainState
from purejaxppo.train import as_traced, check_actions, checked_length

Array = jax.Array


def sweep(
    algo: Algorithm, keys: Array, hyperparams: Hyperparams, num_updates: int | None = None
) -> tuple[TrainState, Metrics]:
    """Train every setting with every seed -> (states [H, S, ...], metrics [H, S, num_updates]).

    One program, compiled once for any numbers of the same shapes. Seeds are shared out among all local devices, or as
    many as divide their number, unless the runs themselves are (`Config.num_devices`).
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

    devices = largest_share(len(keys), len(keys)) if algo.num_devices == 1 else 1
    length = checked_length(algo, h, 0, num_updates)
    states, metrics = _grid(algo.init, algo.update, length, devices, keys, settings)
    check_actions(algo, metrics)
    return states, metrics


@partial(jax.jit, static_argnames=("init", "update", "num_updates", "num_devices"))
def _grid(
    init: Callable[..., Any],
    update: Callable[..., Any],
    num_updates: int,
    num_devices: int,
    keys: Array,
    settings: Hyperparams,
) -> Any:
    def run(key: Array, h: Hyperparams) -> Any:
        return jax.lax.scan(lambda state, _: update(state, h), init(key, h), length=num_updates)

    def grid(keys: Array, settings: Any) -> Any:
        """Runs side by side along one axis: over two of them a CPU's matrix products are a quarter slower."""
        num_settings, num_seeds = len(settings.gamma), len(keys)
        if num_settings == 1:
            results = jax.vmap(run, (0, None))(keys, jax.tree.map(lambda x: x[0], settings))
        else:
            every_key = jnp.broadcast_to(keys, (num_settings, num_seeds)).reshape(-1)
            results = jax.vmap(run)(every_key, jax.tree.map(lambda x: jnp.repeat(x, num_seeds), settings))
        return jax.tree.map(lambda x: x.reshape(num_settings, num_seeds, *x.shape[1:]), results)

    return spread(grid, num_devices, axis=1)(keys, settings)
