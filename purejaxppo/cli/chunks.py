"""Train chunk by chunk; the length of a chunk follows from the measured speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from purejaxppo.config.schema import Run

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics
    from purejaxppo.types import Algorithm, TrainState

CHUNK_SECONDS = 0.7  # about the longest time between two updates of the display, and of a wait for the end of a chunk

MAX_CHUNK = 4096  # updates; the program has room for the metrics of a whole chunk


def chunks(
    run: Run,
    algo: Algorithm,
    state: TrainState | None,
    done: int,
    last: int,
    until_due: Callable[[int], int | None],
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yield (state, metrics) after every hundredth of the run, or about every second if that is sooner.

    Args:
        run: the settings.
        algo: the algorithm.
        state: the state to continue from; None: the first state of the seed.
        done: updates that led to `state`.
        last: number of updates at which to stop.
        until_due: returns after how many more updates a chunk has to end, if there is such a limit.
    """
    import jax

    from purejaxppo.training.loop import init_state, iterate
    from purejaxppo.training.memory import check_update_memory

    h = run.hyperparams
    # One program serves all chunks up to this length, those of a resumed run included.
    size = min(math.ceil(run.config.num_updates / 100), MAX_CHUNK)
    if state is None:
        state = init_state(algo, jax.random.key(run.seed), h)
    if done < last:
        check_update_memory(run, algo, state, size)
    wanted, compiled = 1, False
    while done < last:
        length = min(wanted, size, last - done, until_due(done) or size)
        started = time.monotonic()
        state, metrics = next(iterate(algo, state, h, num_updates=length, chunk=size))
        if compiled:  # the first chunk includes the compilation and says nothing about the speed
            faster = CHUNK_SECONDS / max(time.monotonic() - started, 1e-3)
            wanted = math.ceil(length * min(faster, 8.0))
        compiled = True
        done += length
        yield state, metrics
