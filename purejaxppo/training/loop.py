"""Two ways to run `update`: the whole run as one program, or a generator over chunks of it. Same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.config.checks import check_parts
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.masks import action_mask
from purejaxppo.metrics import Metrics
from purejaxppo.types import Algorithm, TrainState

Array = jax.Array


def train(
    algo: Algorithm, key: Array, hyperparams: Hyperparams | None = None, num_updates: int | None = None
) -> tuple[TrainState, Metrics]:
    """Train from scratch: `lax.scan` of `algo.update` -> (final state, metrics [num_updates]).

    key: one typed key. num_updates: all that `config.total_timesteps` holds, unless given. Pure, so `jax.vmap`
    over the key is many seeds and over the hyperparameters a sweep (see `sweep`).
    Raises ConfigError on bad hyperparameters and ValueError on more updates than the config declares, or where the
    environment came to a state with every action masked (not seen inside of a `jit`; `metrics.masked_states` is).
    """
    h = as_traced(hyperparams)
    num_updates = checked_length(algo, h, 0, num_updates)
    state, metrics = _scan(algo.update, num_updates, _init(algo.init, key, h), h)
    check_actions(algo, metrics)
    return state, metrics


def iterate(
    algo: Algorithm,
    state: TrainState,
    hyperparams: Hyperparams | None = None,
    num_updates: int | None = None,
    chunk: int = 10,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train on from `state`, `chunk` updates at a time: yields (state, metrics [<= chunk], NumPy arrays).

    num_updates: what is left of `config.total_timesteps`, unless given. Whoever consumes it may log, draw, save
    or simply stop; the last state yielded is whole. One program serves every chunk, the short last one too.
    Raises as `train` does.
    """
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: a chunk has at least 1 update")
    h = as_traced(hyperparams)
    done = int(np.max(jax.device_get(state.num_updates)))
    left = checked_length(algo, h, done, num_updates)
    while left > 0:
        length = min(chunk, left)
        state, metrics = _chunk(algo.update, chunk, state, h, jnp.int32(length))
        metrics = jax.tree.map(lambda x, n=length: x[:n], jax.device_get(metrics))
        yield state, metrics
        check_actions(algo, metrics)
        left -= length


def check_actions(algo: Algorithm, metrics: Metrics) -> None:
    """Raise ValueError where a state had every action masked. Without masks, or inside of a jit, nothing is read."""
    count = metrics.masked_states
    if action_mask(algo.env.observation_space) is None or isinstance(count, Tracer) or not np.asarray(count).any():
        return
    name = f"the environment {algo.env.name}" if algo.env.name else "the environment"
    raise ValueError(
        f"{name} allowed no action in {np.asarray(count).sum():.0f} states of the rollouts: its action mask forbade "
        "all of them. A state without an allowed action must end the episode"
    )


def init_state(algo: Algorithm, key: Array, hyperparams: Hyperparams | None = None) -> TrainState:
    """The state before the first update, as `train` starts from, compiled."""
    return _init(algo.init, key, as_traced(hyperparams))


def as_traced(hyperparams: Hyperparams | None) -> Hyperparams:
    """Hyperparameters as float32 arrays: a Python number and an array then share one program.

    Raises TypeError where something else is passed, ConfigError where a number is out of its range.
    """
    h = Hyperparams() if hyperparams is None else hyperparams
    if not isinstance(h, Hyperparams):
        raise TypeError(f"hyperparams must be a Hyperparams (traced numbers), not {type(h).__name__}")
    check_parts(Config(), hyperparams=h)
    return Hyperparams(*(jnp.asarray(x, jnp.float32) for x in h))


def checked_length(algo: Algorithm, h: Hyperparams, done: int, num_updates: int | None) -> int:
    """The number of updates to do. More than the config declares would run at a learning rate of 0."""
    declared = algo.config.num_updates
    if num_updates is None:
        return max(declared - done, 0)
    anneals = isinstance(h.lr_anneal, Tracer) or bool(np.any(np.asarray(h.lr_anneal) > 0))
    if anneals and done + num_updates > declared:
        raise ValueError(
            f"{done + num_updates} updates, but total_timesteps={algo.config.total_timesteps} declares {declared}: the "
            f"learning rate is 0 from there on. Set Config(total_timesteps="
            f"{(done + num_updates) * algo.config.timesteps_per_update}), or lr_anneal=0 for a constant rate."
        )
    return num_updates


@partial(jax.jit, static_argnames="init")
def _init(init: Callable[..., TrainState], key: Array, h: Hyperparams) -> TrainState:
    return init(key, h)


@partial(jax.jit, static_argnames=("update", "num_updates"))
def _scan(update: Callable[..., Any], num_updates: int, state: TrainState, h: Hyperparams) -> Any:
    return jax.lax.scan(lambda state, _: update(state, h), state, length=num_updates)


@partial(jax.jit, static_argnames=("update", "size"))
def _chunk(update: Callable[..., Any], size: int, state: TrainState, h: Hyperparams, length: Array) -> Any:
    """`length` updates with room for the metrics of `size`: a traced length is one compile for every chunk."""
    shapes = jax.eval_shape(update, state, h)[1]
    room = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    def body(i: Array, loop: tuple) -> tuple:
        state, metrics = update(loop[0], h)
        return state, jax.tree.map(lambda all, one: all.at[i].set(one), loop[1], metrics)

    return jax.lax.fori_loop(0, length, body, (state, room))
