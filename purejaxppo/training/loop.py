"""Run `update`: a whole run as one XLA program (`train`), or chunk by chunk (`iterate`). Both give the same numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.stages import Compiled

from purejaxppo._util.aliases import KeyLike, PyTree, Shapes
from purejaxppo.config.schema import Hyperparams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo import collect_rollout
from purejaxppo.training.arguments import (
    as_count,
    as_key,
    as_scalars,
    as_traced,
    batch_shape,
    check_algorithm,
    check_state,
    describe,
)
from purejaxppo.training.env_params import params_of_batch, set_env_params
from purejaxppo.training.health import RunError, find_fault, is_traced
from purejaxppo.training.many_runs import (
    SplitHyperparams,
    flatten_runs,
    map_runs,
    partition_runs,
    place_runs,
    split_hyperparams,
    unflatten_runs,
    warn_of_failed_runs,
)
from purejaxppo.types import (
    Algorithm,
    Components,
    Init,
    TrainState,
    Transition,
    Update,
)

MAX_UPDATES = 2**31 - 1  # the counter of updates in a TrainState is int32
MAX_ROOM = 2**16  # updates whose metrics one program has room for


def train(
    algo: Algorithm,
    key: KeyLike,
    hyperparams: Hyperparams | None = None,
    num_updates: int | None = None,
    *,
    env_params: PyTree = None,
) -> tuple[TrainState, Metrics]:
    """Train from scratch: `lax.scan` of `algo.update`.

    The function is pure: `jax.vmap` over the key trains many seeds, over the hyperparameters many settings (`sweep`
    does both). Inside of `jit` or `vmap` the metrics cannot be checked, so that no RunError is raised; `failed_runs`
    reads the metrics afterwards.

    Args:
        algo: of `make_ppo`; its `update` may be replaced.
        key: a key, typed or raw, or an integer seed.
        hyperparams: scalars; the defaults if not given.
        num_updates: by default as many as `config.total_timesteps` holds.
        env_params: parameters of the environment, as of `set_env_params`; the defaults if not given.

    Returns:
        The final state, and metrics with leaves [num_updates].

    Raises:
        TypeError, ValueError: an argument of another kind; the message says what to pass.
        ConfigError: a hyperparameter out of its range.
        ValueError: more updates than the config declares, unless the learning rate is constant.
        RunError: the losses, the parameters or the environment became NaN or Inf, or the environment allowed no
            action. `error.result` holds what would have been returned.
    """
    check_algorithm(algo, "train")
    typed_key = as_key(key, "train")
    h = as_scalars(hyperparams, "train")
    length = checked_length(algo, h, 0, num_updates)
    start = _init(algo.init, typed_key, h, params_of_batch(algo, env_params))
    state, metrics = _scan(algo.update, length, start, h)
    raise_if_unhealthy(algo, state, metrics)
    return state, metrics


def iterate(
    algo: Algorithm,
    state: TrainState,
    hyperparams: Hyperparams | None = None,
    num_updates: int | None = None,
    chunk: int = 10,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Continue training from `state`, `chunk` updates at a time.

    The consumer may log, draw, save, or stop; every state yielded is complete. One program serves all chunks, the last
    and shorter one included.

    Args:
        algo: of `make_ppo`; its `update` may be replaced.
        state: of `init_state`, `train`, `iterate` or `sweep`. States of several runs, with leading axes [S] or [H, S],
            are continued together.
        hyperparams: scalars, or for several runs arrays along their first axis, as in `sweep`.
        num_updates: by default what is left of `config.total_timesteps`.
        chunk: updates between two yields, at least 1.

    Yields:
        The state, and metrics as NumPy arrays with leaves [updates in the chunk], after the axes of several runs.

    Raises:
        TypeError, ValueError, ConfigError: as `train`.
        RunError: as `train`, after the chunk was yielded. If one of several runs fails, a warning names it and the
            other ones go on.
    """
    check_algorithm(algo, "iterate")
    check_state(state, "iterate")
    chunk = as_count(chunk, "chunk")
    shape = batch_shape(state)
    h = as_traced(hyperparams) if shape else as_scalars(hyperparams, "iterate")
    done = int(np.max(jax.device_get(state.num_updates)))
    remaining = checked_length(algo, h, done, num_updates)
    size = min(chunk, max(remaining, algo.config.num_updates), MAX_ROOM)
    lengths = (min(chunk, remaining - start) for start in range(0, remaining, chunk))
    if shape:
        return _iterate_runs(algo, state, split_hyperparams(h, shape, "iterate"), size, lengths)
    return _iterate_run(algo, state, h, size, lengths)


def _iterate_run(
    algo: Algorithm, state: TrainState, h: Hyperparams, size: int, lengths: Iterable[int]
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yield chunk after chunk of one run."""
    done = int(jax.device_get(state.num_updates))
    program = partial(_chunk, algo.update, size, h)
    for length in lengths:
        state, metrics = _run_chunk(program, state, length, size, axis=0)
        yield state, metrics
        raise_if_unhealthy(algo, state, metrics, done)
        done += length


def _iterate_runs(
    algo: Algorithm, states: TrainState, hyperparams: SplitHyperparams, size: int, lengths: Iterable[int]
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yield chunk after chunk of several runs, whose states have leading axes [S] or [H, S]."""
    shape = batch_shape(states)
    done = int(np.max(jax.device_get(states.num_updates)))
    num_devices, at_once = partition_runs(algo.config, math.prod(shape))
    flat, varied = place_runs((flatten_runs(states, len(shape)), hyperparams[0]), num_devices)
    program = partial(_chunks_of_runs, algo.update, size, num_devices, at_once, varied, hyperparams[1])
    failed = np.zeros(shape, bool)
    for length in lengths:
        flat, metrics = _run_chunk(program, flat, length, size, axis=1)
        metrics = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), metrics)
        yield unflatten_runs(flat, shape), metrics
        failed = warn_of_failed_runs(algo.env.name, metrics, failed, done)
        done += length


def _run_chunk(
    program: Callable[..., tuple[TrainState, Metrics]], state: TrainState, length: int, size: int, axis: int
) -> tuple[TrainState, Metrics]:
    """Run `length` updates in calls of at most `size`; the metrics are NumPy arrays with the updates along `axis`."""
    pieces = []
    for start in range(0, length, size):
        count = min(size, length - start)
        state, metrics = program(state, jnp.int32(count))
        first = (slice(None),) * axis + (slice(count),)
        pieces.append(jax.tree.map(lambda x, first=first: x[first], jax.device_get(metrics)))
    if len(pieces) == 1:
        return state, pieces[0]
    return state, jax.tree.map(lambda *x: np.concatenate(x, axis), *pieces)


def init_state(
    algo: Algorithm, key: KeyLike, hyperparams: Hyperparams | None = None, *, env_params: PyTree = None
) -> TrainState:
    """Return the state before the first update, as `train` starts from.

    Args:
        algo: of `make_ppo`.
        key: a key, typed or raw, or an integer seed.
        hyperparams: scalars; the defaults if not given.
        env_params: parameters of the environment, as of `set_env_params`; the defaults if not given.

    Raises:
        TypeError, ValueError, ConfigError: as `train`.
    """
    check_algorithm(algo, "init_state")
    params = params_of_batch(algo, env_params)
    return _init(algo.init, as_key(key, "init_state"), as_scalars(hyperparams, "init_state"), params)


def rollout(
    algo: Algorithm, state: TrainState, key: KeyLike, *, env_params: PyTree = None
) -> tuple[TrainState, Transition]:
    """Act with the policy of `state` for T steps in its N environments, as the first step of an update does.

    Args:
        algo: of `make_ppo`.
        state: a TrainState of one run.
        key: a key, typed or raw, or an integer seed.
        env_params: parameters of the environment for this rollout; those of `state` if not given.

    Returns:
        The state after the rollout (environments, observations and recurrent state have moved on, all else is
        unchanged), and the transitions with leaves [T, N, ...]. Observations and rewards are as the environment gave
        them, neither normalized nor scaled.

    Raises:
        TypeError, ValueError: an argument of another kind; the message says what to pass.
    """
    check_algorithm(algo, "rollout")
    check_state(state, "rollout")
    if batch_shape(state):
        raise ValueError("rollout plays the environments of one run; use jax.vmap for the states of several")
    start = state if env_params is None else set_env_params(state, env_params)
    after, transitions = _rollout(ByIdentity(algo.components), start, as_key(key, "rollout"), whole=True)
    return after._replace(env_params=state.env_params), transitions


def state_shapes(algo: Algorithm, hyperparams: Hyperparams | None = None) -> Shapes:
    """Return shapes and dtypes of the TrainState of an algorithm; nothing is computed."""
    h = as_scalars(hyperparams, "state_shapes")
    return _init.eval_shape(algo.init, jax.eval_shape(lambda: jax.random.key(0)), h)


def rollout_shapes(algo: Algorithm, state: Shapes) -> Shapes:
    """Return shapes and dtypes of the Transition of an update's rollout from `state`; nothing is computed."""
    return _rollout.eval_shape(ByIdentity(algo.components), state, state.key, whole=False)[1]


def compile_chunk(algo: Algorithm, state: TrainState, hyperparams: Hyperparams | None, size: int) -> Compiled:
    """Compile the program with which `iterate` runs chunks of `size` updates; it is kept for the first call.

    Args:
        algo: of `make_ppo`.
        state: of one run.
        hyperparams: scalars.
        size: updates whose metrics the program has room for.
    """
    h = as_scalars(hyperparams, "compile_chunk")
    return _chunk.lower(algo.update, size, h, state, jnp.int32(1)).compile()


def raise_if_unhealthy(algo: Algorithm, state: TrainState, metrics: Metrics, first_update: int = 0) -> None:
    """Raise RunError if the metrics [U] of one run show a fault. While tracing nothing is checked."""
    if is_traced(metrics):
        return
    fault = find_fault(metrics, algo.env.name, first_update)
    if fault:
        raise RunError(fault, (state, metrics))


def checked_length(algo: Algorithm, h: Hyperparams, done: int, num_updates: int | None) -> int:
    """Return the number of updates to do.

    Args:
        algo: its config declares the number of updates of a whole run.
        h: the hyperparameters of one or more runs.
        done: updates done before.
        num_updates: updates asked for; None for those that remain.

    Raises:
        TypeError, ValueError: `num_updates` is no integer of at least 0.
        ValueError: the run would outlast the schedule of its learning rate, or the counter of updates.
    """
    declared = algo.config.num_updates
    count = max(declared - done, 0) if num_updates is None else as_count(num_updates, "num_updates", 0)
    anneals = isinstance(h.lr_anneal, Tracer) or bool(np.any(np.asarray(h.lr_anneal) > 0))
    if anneals and count and done + count > declared:
        raise ValueError(
            f"{done + count} updates, but total_timesteps={algo.config.total_timesteps} declares {declared}: the "
            f"learning rate is 0 from there on. Set Config(total_timesteps="
            f"{(done + count) * algo.config.timesteps_per_update}), or lr_anneal=0 for a constant rate."
        )
    if done + count > MAX_UPDATES:
        raise ValueError(f"{done + count} updates: a run has at most {MAX_UPDATES}")
    return count


def call_update(update: Update, state: TrainState, h: Hyperparams) -> tuple[TrainState, Metrics]:
    """Call `update` and check, while it is traced, that it returns a state like the one it got, and metrics.

    Raises:
        TypeError: it returns something else.
    """
    result = update(state, h)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"algo.update must return the pair (state, metrics), but it returned {describe(result)}")
    if jax.tree.structure(state) != jax.tree.structure(result[0]):
        raise TypeError("algo.update must return (state, metrics) with a state of the structure that it received")
    for (path, old), new in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(result[0]), strict=True):
        if jax.typeof(old).shape != jax.typeof(new).shape or jax.typeof(old).dtype != jax.typeof(new).dtype:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise TypeError(
                f"algo.update must keep shapes and dtypes of the state, but state.{name} was {jax.typeof(old)} and "
                f"became {jax.typeof(new)}"
            )
    return result


@partial(jax.jit, static_argnames="init")
def _init(init: Init, key: Array, h: Hyperparams, env_params: PyTree = None) -> TrainState:
    return init(key, h) if env_params is None else init(key, h, env_params)


@dataclasses.dataclass(frozen=True, eq=False)
class ByIdentity:
    """Components as a static argument: the spaces in them may be dicts, which have no hash."""

    components: Components

    def __hash__(self) -> int:
        return id(self.components)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.components is other.components


@partial(jax.jit, static_argnames=("static", "whole"))
def _rollout(static: ByIdentity, state: TrainState, key: Array, whole: bool) -> tuple[TrainState, Transition]:
    ppo = static.components
    if whole:
        ppo = ppo._replace(plan=ppo.plan.keeping_all_final_observations())
    return collect_rollout(ppo, state, key)


@partial(jax.jit, static_argnames=("update", "num_updates"))
def _scan(update: Update, num_updates: int, state: TrainState, h: Hyperparams) -> tuple[TrainState, Metrics]:
    return jax.lax.scan(lambda state, _: call_update(update, state, h), state, length=num_updates)


@partial(jax.jit, static_argnames=("update", "size"))
def _chunk(update: Update, size: int, h: Hyperparams, state: TrainState, length: Array) -> tuple[TrainState, Metrics]:
    """Run one chunk as one program."""
    return run_updates(update, size, h, state, length)


def run_updates(
    update: Update, size: int, h: Hyperparams, state: TrainState, length: Array
) -> tuple[TrainState, Metrics]:
    """Run `length` updates and return the state and their metrics.

    `length` is traced, so that one program serves every length up to `size`.

    Args:
        update: of an Algorithm.
        size: static bound of `length`.
        h: hyperparameters, [] each.
        state: of one run.
        length: number of updates, int32 [].

    Returns:
        The last state, and metrics with leaves [size], of which the first `length` are filled and the others are 0.
    """
    shapes = jax.eval_shape(partial(call_update, update), state, h)[1]
    room = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), shapes)

    def body(i: Array, carry: tuple) -> tuple:
        state, metrics = call_update(update, carry[0], h)
        return state, jax.tree.map(lambda all_updates, one: all_updates.at[i].set(one), carry[1], metrics)

    return jax.lax.fori_loop(0, length, body, (state, room))


@partial(jax.jit, static_argnames=("update", "size", "num_devices", "at_once"))
def _chunks_of_runs(
    update: Update,
    size: int,
    num_devices: int,
    at_once: int,
    varied: Hyperparams | tuple[()],
    shared: Hyperparams | tuple[()],
    states: TrainState,
    length: Array,
) -> tuple[TrainState, Metrics]:
    """Run a chunk of each of several runs, leaves [R, ...]."""

    def run(one: tuple, shared: tuple) -> tuple[TrainState, Metrics]:
        state, varied = one
        h, length = shared
        return _chunk(update, size, varied or h, state, length)

    return map_runs(run, num_devices, at_once, (states, varied), (shared, length))
