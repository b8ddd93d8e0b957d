"""Forecast the memory of an update, and refuse a run that does not fit its device before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from purejaxppo.config.checks import find_problems
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.devices.memory import MEMORY_VARIABLE, available_memory, compiled_memory, tree_bytes
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.networks.protocol import Network
from purejaxppo.training.errors import OutOfMemoryError
from purejaxppo.training.loop import compile_chunk, rollout_shapes, state_shapes
from purejaxppo.types import PER_ENV_FIELDS, Algorithm, Components, TrainState

T = TypeVar("T")

PARAMETERS = "parameters and optimizer state"
ENVIRONMENTS = "environment states"
NEXT = "state after the update"
ROLLOUT = "rollout"
TEMPORARIES = "temporaries"

GRADIENTS = 3  # copies of the parameters among the temporaries: the gradient, and old and new values of a step


class Forecast(NamedTuple):
    """Bytes that a program needs in the memory of one device; on a CPU, of all devices together."""

    buffers: dict[str, int]  # by name
    total: int
    is_exact: bool  # of the compiled program; otherwise from shapes, and the temporaries come on top


def forecast(algo: Algorithm, hyperparams: Hyperparams | None = None, compiled: Compiled | None = None) -> Forecast:
    """Forecast the memory of an update.

    Args:
        algo: of `make_ppo`.
        hyperparams: scalars; the defaults if not given.
        compiled: the update, compiled; None forecasts from shapes alone, which is a lower bound.
    """
    state = state_shapes(algo, hyperparams)
    copies, share = _devices_of(algo)
    by_env = sum(tree_bytes(x) for name, x in state._asdict().items() if name in PER_ENV_FIELDS)
    learned = tree_bytes(state) - by_env
    environments = copies * by_env // share
    buffers = {
        PARAMETERS: copies * learned,
        ENVIRONMENTS: environments,
        NEXT: copies * learned + environments,
        ROLLOUT: copies * _rollout_bytes(algo, state) // share,
    }
    known = sum(buffers.values())
    if compiled is None:
        return Forecast(buffers, known, False)
    total = copies * compiled_memory(compiled)
    return Forecast(buffers | {TEMPORARIES: max(total - known, 0)}, total, True)


def _devices_of(algo: Algorithm) -> tuple[int, int]:
    """Return how many copies of replicated arrays one memory holds, and over how many devices arrays are sharded."""
    count = algo.components.plan.num_devices if isinstance(algo.components, Components) else 1
    return (count, count) if jax.default_backend() == "cpu" else (1, count)


def _rollout_bytes(algo: Algorithm, state: TrainState) -> int:
    if not isinstance(algo.components, Components):
        return 0
    return tree_bytes(rollout_shapes(algo, state))


# Checks --------------------------------------------------------------------------------------------------------------


def check_memory(run: Run, algo: Algorithm) -> None:
    """Check by shapes that the state and the rollout of a run fit the device.

    Raises:
        OutOfMemoryError: they do not; lists the buffers and settings that would fit.
    """
    room = available_memory()
    if room is not None:
        _refuse_if_larger(run, algo, forecast(algo, run.hyperparams), room)


def check_update_memory(run: Run, algo: Algorithm, state: TrainState, size: int) -> None:
    """Compile the first chunk and check that its program fits the device.

    Args:
        run: the settings.
        algo: the algorithm.
        state: the state before the first update, which is in memory.
        size: of the chunks, as for `iterate`.

    Raises:
        OutOfMemoryError: it does not fit; lists the buffers and settings that would fit.
    """
    room = available_memory()
    if room is None:
        return
    compiled = compile_chunk(algo, state, run.hyperparams, size)
    copies, _ = _devices_of(algo)
    room += copies * sum(_bytes_on_one_device(x) for x in jax.tree.leaves(state))
    if copies * compiled_memory(compiled) > room:
        _refuse_if_larger(run, algo, forecast(algo, run.hyperparams, compiled), room)


def _bytes_on_one_device(x: jax.Array) -> int:
    return tree_bytes(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.addressable_shards[0].data.nbytes


def explain_exhaustion(items: Iterator[T], run: Run, algo: Algorithm) -> Iterator[T]:
    """Yield from `items`, which compute on the device.

    Args:
        items: the iterator to advance.
        run: the settings.
        algo: the algorithm.

    Raises:
        OutOfMemoryError: the device ran out of memory; lists the buffers and settings that would fit.
    """
    try:
        yield from items
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_exhaustion(error):
            raise
        raise exhaustion(run, algo, error) from error


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def exhaustion(run: Run, algo: Algorithm, error: BaseException) -> OutOfMemoryError:
    """Return the error to raise when memory ran out: what the device said, the buffers, and settings that would fit."""
    needed = forecast(algo, run.hyperparams)
    room = available_memory()
    half = min(needed.total if room is None else room, needed.total) // 2  # the forecast from shapes is a lower bound
    lines = [f"the device is out of memory: {first_line(error)}", headline(run.env, needed, room), table(needed)]
    return OutOfMemoryError("\n".join([*lines, _advice(run, algo, needed, half)]))


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _refuse_if_larger(run: Run, algo: Algorithm, needed: Forecast, room: int) -> None:
    if needed.total > room:
        parts = [headline(run.env, needed, room), table(needed), _advice(run, algo, needed, room)]
        raise OutOfMemoryError("\n".join(parts))


# The text ------------------------------------------------------------------------------------------------------------


def show_bytes(count: int) -> str:
    """Write a number of bytes as 1.5 GB, 20 MB or 3 kB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= factor * 0.9995:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def headline(name: str, needed: Forecast, room: int | None) -> str:
    """Return the sentence that says how much memory is needed, and how much there is.

    Args:
        name: of the environment.
        needed: the forecast.
        room: bytes that are available; None: not known.
    """
    least = "" if needed.is_exact else "at least "
    there = "" if room is None else f", and {show_bytes(room)} are available"
    return (
        f"{name} with these settings needs {least}{show_bytes(needed.total)} of memory{there} "
        f"(the environment variable {MEMORY_VARIABLE} sets another limit in bytes, or off)"
    )


def table(needed: Forecast) -> str:
    """Return a line for each buffer of a forecast, the largest first."""
    rows = sorted(needed.buffers.items(), key=lambda item: -item[1])
    return "\n".join(f"  {name:<32}{show_bytes(count):>9}" for name, count in rows)


def _advice(run: Run, algo: Algorithm, needed: Forecast, room: int) -> str:
    found = settings_that_fit(run, algo, needed, room)
    lines = [f"  {line}" for line in found] or ["  none with a smaller num_envs or smaller hidden_sizes"]
    if needed.buffers.get(TEMPORARIES, 0) > needed.total // 4:
        lines.append("  a smaller config.microbatch_size, or more config.num_minibatches, needs fewer temporaries")
    return "\n".join(["settings that would fit:", *lines])


def settings_that_fit(run: Run, algo: Algorithm, needed: Forecast, room: int) -> list[str]:
    """Return settings with which the forecast is at most `room` bytes, as lines of text.

    Smaller num_envs are tried, then smaller hidden_sizes, then both. Arrays of environments are taken to be
    proportional to num_envs; the bytes of the parameters are those of the smaller network.

    Args:
        run: the settings that do not fit.
        algo: their algorithm.
        needed: their forecast.
        room: bytes.
    """
    for tried in (_fewer_envs(run), _smaller_networks(run), _both(run)):
        for smaller in tried:
            bytes_needed = _scaled(run, algo, needed, smaller)
            if bytes_needed <= room:
                return [f"{_difference(run, smaller)}  (about {show_bytes(bytes_needed)})"]
    return []


def _fewer_envs(run: Run) -> Iterator[Run]:
    """Yield the settings with num_envs halved again and again, where that is valid."""
    count = run.config.num_envs // 2
    while count:
        config = dataclasses.replace(run.config, num_envs=count)
        if not find_problems(config, run.network, run.hyperparams):
            yield dataclasses.replace(run, config=config)
        count //= 2


def _smaller_networks(run: Run) -> Iterator[Run]:
    """Yield the settings with every hidden size halved again and again, down to 8."""
    sizes = run.network.hidden_sizes
    while max(sizes, default=0) > 8:
        sizes = tuple(max(size // 2, 8) for size in sizes)
        yield dataclasses.replace(run, network=dataclasses.replace(run.network, hidden_sizes=sizes))


def _both(run: Run) -> Iterator[Run]:
    fewest = list(_fewer_envs(run))[-1:]
    return (smaller for few in fewest for smaller in _smaller_networks(few))


def _scaled(run: Run, algo: Algorithm, needed: Forecast, smaller: Run) -> int:
    """Return about how many bytes other settings need."""
    envs = smaller.config.num_envs / run.config.num_envs
    params = 1.0
    if smaller.network != run.network:
        params = params_bytes(make_network(algo.env, smaller.network)) / max(params_bytes(algo.network), 1)
    gradients = GRADIENTS * params_bytes(algo.network)
    total = needed.total if needed.is_exact else needed.total + gradients
    learned = min(2 * needed.buffers[PARAMETERS] + gradients, total)
    return math.ceil(params * learned + envs * (total - learned))


def params_bytes(network: Network) -> int:
    """Return the bytes of the parameters of a network."""
    return tree_bytes(jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0))))


def _difference(run: Run, smaller: Run) -> str:
    parts = []
    if smaller.config != run.config:
        parts.append(f"config.num_envs = {smaller.config.num_envs}")
    if smaller.network != run.network:
        parts.append(f"network.hidden_sizes = {list(smaller.network.hidden_sizes)}")
    return ", ".join(parts)
