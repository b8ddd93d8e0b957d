"""Evaluate within the memory of the device.

Forecast what is needed, and play fewer environments at once if it does not fit.
"""

from __future__ import annotations

from jax import Array
from jax.stages import Compiled

from purejaxppo.devices.memory import available_memory, compiled_memory, tree_bytes
from purejaxppo.training.errors import OutOfMemoryError
from purejaxppo.training.evaluation import (
    Evaluation,
    compile_evaluation,
    default_at_once,
    evaluate,
    evaluation_shapes,
    half_at_once,
)
from purejaxppo.training.memory import (
    ENVIRONMENTS,
    TEMPORARIES,
    Forecast,
    first_line,
    headline,
    is_exhaustion,
    params_bytes,
    table,
)
from purejaxppo.training.policy_file import Policy
from purejaxppo.types import Algorithm, TrainState


def evaluation_forecast(algo: Algorithm, at_once: int, compiled: Compiled | None = None) -> Forecast:
    """Forecast the memory of `evaluate`.

    Args:
        algo: of `make_ppo`.
        at_once: environments played side by side; rounded up to whole groups.
        compiled: the program, compiled; None forecasts from shapes alone, which is a lower bound.
    """
    states = tree_bytes(evaluation_shapes(algo, at_once))
    buffers = {"parameters": params_bytes(algo.network), ENVIRONMENTS: 2 * states}
    known = sum(buffers.values())
    if compiled is None:
        return Forecast(buffers, known, False)
    total = compiled_memory(compiled)
    return Forecast(buffers | {TEMPORARIES: max(total - known, 0)}, total, True)


def check_evaluation_memory(algo: Algorithm) -> None:
    """Check by shapes that a policy and the fewest environments that can be played at once fit the device.

    Raises:
        OutOfMemoryError: they do not; lists the buffers.
    """
    room = available_memory()
    if room is None:
        return
    needed = evaluation_forecast(algo, 1)
    if needed.total > room:
        raise OutOfMemoryError(f"{headline(_name(algo), needed, room)}\n{table(needed)}")


def evaluate_within_memory(
    algo: Algorithm, policy: TrainState | Policy, key: Array, num_episodes: int, greedy: bool, max_steps: int
) -> Evaluation:
    """Evaluate, and play as many environments side by side as fit the memory of the device.

    Args:
        algo: of `make_ppo`.
        policy: a TrainState or a Policy of one run.
        key: as of `evaluate`.
        num_episodes: as of `evaluate`.
        greedy: as of `evaluate`.
        max_steps: as of `evaluate`.

    Raises:
        OutOfMemoryError: not even the fewest fit; lists the buffers.
        RunError: as `evaluate`.
    """
    at_once = fitting_at_once(algo, policy, num_episodes, max_steps)
    while True:
        try:
            return evaluate(algo, policy, key, num_episodes, greedy, max_steps, at_once)
        except (RuntimeError, MemoryError) as error:
            if not is_exhaustion(error):
                raise
            smaller = half_at_once(algo, at_once)
            if smaller is None:
                raise _exhaustion(algo, at_once, error) from error
            at_once = smaller


def fitting_at_once(algo: Algorithm, policy: TrainState | Policy, num_episodes: int, max_steps: int) -> int:
    """Return how many environments to play side by side, so that the compiled program fits the device.

    Args:
        algo: of `make_ppo`.
        policy: a TrainState or a Policy of one run, which is in memory.
        num_episodes: of the evaluation.
        max_steps: limit on the length of an episode.

    Raises:
        OutOfMemoryError: not even the fewest fit; lists the buffers.
    """
    at_once, room = default_at_once(algo, num_episodes), available_memory()
    if room is None:
        return at_once
    room += tree_bytes((policy.params, policy.obs_moments))
    while True:
        needed = evaluation_forecast(algo, at_once)
        if needed.total <= room:
            needed = evaluation_forecast(
                algo, at_once, compile_evaluation(algo, policy, num_episodes, max_steps, at_once)
            )
        if needed.total <= room:
            return at_once
        smaller = half_at_once(algo, at_once)
        if smaller is None:
            raise OutOfMemoryError(f"{headline(_name(algo), needed, room)}\n{table(needed)}")
        at_once = smaller


def _exhaustion(algo: Algorithm, at_once: int, error: BaseException) -> OutOfMemoryError:
    needed = evaluation_forecast(algo, at_once)
    said = f"the device is out of memory: {first_line(error)}"
    return OutOfMemoryError(f"{said}\n{headline(_name(algo), needed, available_memory())}\n{table(needed)}")


def _name(algo: Algorithm) -> str:
    return f"an evaluation of {algo.env.name}" if algo.env.name else "an evaluation"
