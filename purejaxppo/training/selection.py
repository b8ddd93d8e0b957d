"""Evaluate the policy during training, and select the best one.

Every `evaluate_every` updates, and after the last one, the greedy policy plays whole episodes. Their keys depend on the
seed and the update only, so training gives bitwise the same run without evaluations, and a resumed run repeats the ones
that its checkpoint does not have, bitwise as long as as many environments fit the memory. The best policy is the one
with the highest mean return, of equal ones the first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.training.checkpoint_folder import checkpoint_path
from purejaxppo.training.checkpoints import load_checkpoint, verify_checkpoint
from purejaxppo.training.errors import CheckpointError, OutOfMemoryError
from purejaxppo.training.memory import first_line
from purejaxppo.training.policy_file import Policy, read_metadata, save_policy
from purejaxppo.training.run_folder import BEST_FILE
from purejaxppo.types import Algorithm

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics
    from purejaxppo.types import TrainState

STANDING = "evaluation"  # key in the details of a manifest


class Standing(NamedTuple):
    """The result of the evaluations so far; every checkpoint after the first evaluation has it."""

    evaluated: int = 0  # updates of the policy that was evaluated last; 0: none was
    best: int = 0  # updates of the best policy; 0: there is none
    score: float = 0.0  # its mean return
    num_bytes: int = 0  # length of evaluations.csv

    def after(self, num_updates: int, mean: float) -> Standing:
        """Return the standing after the evaluation of one more policy; a mean that is not finite is never the best."""
        if not math.isfinite(mean) or (self.best and mean <= self.score):
            return self._replace(evaluated=num_updates)
        return self._replace(evaluated=num_updates, best=num_updates, score=mean)

    def as_result(self) -> dict[str, float]:
        """Return the best policy for the summary of a run, {} if there is none."""
        return {"num_updates": self.best, "mean": self.score} if self.best else {}

    def is_due(self, run: Run, num_updates: int) -> bool:
        """Return whether the policy after `num_updates` updates is to be evaluated, and was not yet."""
        if not run.evaluate_every or not num_updates or self.evaluated == num_updates:
            return False
        return num_updates % run.evaluate_every == 0 or num_updates == run.config.num_updates


class Evaluated(NamedTuple):
    """An evaluation during training."""

    num_updates: int
    state: TrainState
    figures: Mapping[str, float]  # as `evaluate_policy` returns them; {} if it failed
    problem: str = ""  # why it failed
    seconds: float = 0.0  # that it took


Evaluate = Callable[[Policy, int], dict[str, float]]  # (policy, updates) -> figures


def read_standing(details: Mapping[str, object]) -> Standing | None:
    """Return the standing in the details of a manifest, or None if it is not one."""
    given = details.get(STANDING, {})
    if not isinstance(given, dict) or not given.keys() <= set(Standing._fields):
        return None
    standing = Standing(**given)
    counts = (standing.evaluated, standing.best, standing.num_bytes)
    if not all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 2**63 for x in counts):
        return None
    if isinstance(standing.score, bool) or not isinstance(standing.score, int | float):
        return None
    return standing if math.isfinite(standing.score) else None


def with_evaluations(
    chunks: Iterator[tuple[TrainState, Metrics]],
    run: Run,
    state: TrainState | None,
    done: int,
    standing: Standing,
    evaluate: Evaluate,
) -> Iterator[tuple[TrainState, Metrics] | Evaluated]:
    """Yield from `chunks`, and an evaluation after each chunk at whose end one is due.

    An evaluation that a stop prevented comes first. One that fails says why, and training continues.

    Args:
        chunks: pairs of the state after a chunk and its metrics.
        run: the settings.
        state: the state before the first chunk; None at the beginning of a run.
        done: updates that led to `state`.
        standing: of the evaluations before.
        evaluate: evaluates a policy.
    """
    if state is not None and standing.is_due(run, done):
        yield _evaluated(state, done, evaluate)
    for state, metrics in chunks:
        yield state, metrics
        done += len(metrics.total_loss)
        if standing.is_due(run, done):
            yield _evaluated(state, done, evaluate)


def _evaluated(state: TrainState, num_updates: int, evaluate: Evaluate) -> Evaluated:
    started, figures, problem = time.monotonic(), {}, ""
    try:
        figures = evaluate(Policy(state.params, state.obs_moments), num_updates)
    except (UsageError, RuntimeError) as error:  # JAX raises RuntimeError for faults of the device and of callbacks
        problem = str(error) if isinstance(error, UsageError | OutOfMemoryError) else first_line(error)
    return Evaluated(num_updates, state, figures, problem, time.monotonic() - started)


def save_best(folder: Path, state: TrainState | Policy, run: Run, algo: Algorithm, standing: Standing) -> None:
    """Write the best policy of a run.

    Args:
        folder: the run folder.
        state: the state or the policy.
        run: the settings of the run.
        algo: its algorithm.
        standing: with the update and the mean return of the policy.

    Raises:
        OSError: it cannot be written.
    """
    texts = {"num_updates": str(standing.best), "mean_return": repr(float(standing.score))}
    save_policy(folder / BEST_FILE, state, texts, run=run, algo=algo)


def restore_best(folder: Path, algo: Algorithm, run: Run, standing: Standing, warn: Callable[[str], None]) -> Standing:
    """Write the best policy again, out of its checkpoint, unless the run folder has it.

    Args:
        folder: the run folder.
        algo: the algorithm of the run.
        run: its settings.
        standing: that of the checkpoint from which the run is resumed.
        warn: called with a sentence if the policy cannot be written; its checkpoint stays.

    Returns:
        The standing, without a best policy if that is lost.
    """
    if not standing.best or _updates_of(folder / BEST_FILE) == standing.best:
        return standing
    saved = checkpoint_path(folder, standing.best)
    try:
        state = load_checkpoint(saved, algo, verify_checkpoint(saved)).state
    except CheckpointError:
        return standing._replace(best=0, score=0.0)
    try:
        save_best(folder, state, run, algo, standing)
    except OSError as error:
        place = f"the best policy, that of update {standing.best}, could not be written to {folder / BEST_FILE}"
        warn(f"{place}: {error.strerror or error}; its checkpoint stays, and the next resume tries again")
    return standing


def _updates_of(path: Path) -> int | None:
    """Return the updates of a file of the best policy, None if it is missing or damaged."""
    try:
        text = read_metadata(path).get("num_updates", "")
    except CheckpointError:
        return None
    return int(text) if text.isdecimal() else None
