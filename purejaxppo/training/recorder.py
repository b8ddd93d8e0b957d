"""Keep what a run produces in its folder: metrics, evaluations, checkpoints and policies."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml
from purejaxppo.tracking.csv_file import Row
from purejaxppo.tracking.metrics_file import MetricsFile
from purejaxppo.training.checkpoint_folder import KEEP, save_in_run
from purejaxppo.training.intervals import DEFAULT_INTERVAL, Interval
from purejaxppo.training.policy_file import Policy, save_policy
from purejaxppo.training.run_folder import BEST_FILE, EVALUATIONS_FILE, METRICS_FILE, POLICY_FILE
from purejaxppo.training.selection import STANDING, Evaluated, Standing, save_best
from purejaxppo.types import Algorithm, TrainState

SHARE = 0.01  # of the run time that saving may take unless an interval was asked for
FAILURES = (OSError, ValueError)  # of writing: no disk, a closed file, a folder of other files (CheckpointError)


class Position(NamedTuple):
    """The progress of a run."""

    num_updates: int
    seconds: float  # of training so far, those before a resume included


class Recorder:
    """Writes rows, checkpoints and the policy of one run. Failures are counted, and training continues.

    Args:
        folder: the run folder.
        run: the settings of the run.
        algo: its algorithm.
        csv: its open metrics.csv.
        interval: how often a checkpoint is saved.
        warn: called with a sentence about what could not be written.
        details: JSON values for the manifest of each checkpoint.
        saved: number of updates of the checkpoint that the run was resumed from.
        keep: number of checkpoints to keep.
        evaluations: the open evaluations.csv, if policies are evaluated during training.
        standing: of the evaluations before.
    """

    def __init__(
        self,
        folder: Path,
        run: Run,
        algo: Algorithm,
        csv: MetricsFile,
        interval: Interval,
        warn: Callable[[str], None],
        details: Mapping[str, Any],
        saved: int | None = None,
        keep: int = KEEP,
        evaluations: MetricsFile | None = None,
        standing: Standing = Standing(),  # noqa: B008 - immutable
    ):
        self.failures = 0
        self.standing = standing
        self.saved = saved  # updates of the newest checkpoint
        self.last_error = ""  # what could not be written last, where, and why
        self._folder, self._run, self._algo, self._csv = folder, run, algo, csv
        self._interval, self._warn, self._keep = interval, warn, keep
        self._details = dict(details)
        self._evaluations = evaluations
        self._outdated = False  # the newest checkpoint has the standing before the latest evaluation
        self._best: Policy | None = None  # the best policy until its file is written
        self._saved_at = time.monotonic()
        self._kept: int | None = None  # updates of the policy file
        self._said: dict[str, str] = {}  # the last failure of each kind of file

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows to metrics.csv."""
        self._try("metrics", METRICS_FILE, "its rows are kept for later", self._csv.write, rows)

    def updates_until_due(self, num_updates: int) -> int | None:
        """Return after how many more updates a checkpoint or an evaluation is due; None if updates do not say when."""
        counts = [every for every in (self._interval.updates, self._run.evaluate_every) if every and every < math.inf]
        return min((int(every - num_updates % every) for every in counts), default=None)

    def save_if_due(self, state: TrainState | None, position: Position) -> None:
        """Save a checkpoint if the interval has passed."""
        by_updates = position.num_updates % self._interval.updates == 0
        if by_updates or time.monotonic() - self._saved_at >= self._interval.seconds:
            self.save(state, position)

    def add_evaluation(self, evaluated: Evaluated, position: Position) -> None:
        """Append an evaluation to evaluations.csv. If the policy is the best one, save it and its checkpoint.

        Args:
            evaluated: the evaluation.
            position: of the state that was evaluated.
        """
        state = evaluated.state
        self.standing = self.standing.after(position.num_updates, evaluated.figures.get("mean", math.nan))
        self._outdated = True
        if self._evaluations is not None and evaluated.figures:
            steps = position.num_updates * self._run.config.timesteps_per_update
            row = {"num_updates": position.num_updates, "timesteps": steps, **evaluated.figures}
            self._try("evaluations", EVALUATIONS_FILE, "its rows are kept for later", self._evaluations.write, [row])
        if self.standing.best == position.num_updates:
            self._best = Policy(state.params, state.obs_moments)
            if self._interval == Interval():  # no checkpoint before the end
                self._try("best", BEST_FILE, "", self._save_best, self._best)
            else:
                self.save(state, position)

    def save(self, state: TrainState | None, position: Position) -> bool:
        """Save a checkpoint and the policy, if there is a state, and return whether both are on disk."""
        if state is None:
            return True
        started = time.monotonic()
        newest = "no checkpoint exists" if self.saved is None else f"the newest is that of update {self.saved}"
        done = position.num_updates
        if self.saved != done or self._outdated:
            self._try(
                "checkpoint", f"the checkpoint after update {done}", newest, self._save_checkpoint, state, position
            )
        if self._kept != done:  # on a full disk there may be room for the policy alone
            self._try("policy", POLICY_FILE, "", self._save_policy, state, done)
        if self._best is not None:  # after its checkpoint, from which a resumed run can write it again
            self._try("best", BEST_FILE, "", self._save_best, self._best)
        self._saved_at = time.monotonic()
        if self._interval.adapts:
            seconds = max(DEFAULT_INTERVAL.seconds, (self._saved_at - started) / SHARE)
            self._interval = self._interval._replace(seconds=seconds)
        return self.saved == self._kept == done and not self._outdated and self._best is None

    def _save_checkpoint(self, state: TrainState, position: Position) -> None:
        self._require_folder()
        details = {
            "run": dump_toml(self._run),
            "metrics_bytes": self._csv.sync(),
            "seconds": position.seconds,
            **self._evaluation_details(),
            **self._details,
        }
        hyperparams, best = self._run.hyperparams, self.standing.best
        save_in_run(self._folder, state, hyperparams, self._algo, details, self._keep, best)
        self.saved, self._outdated = position.num_updates, False

    def _evaluation_details(self) -> dict[str, object]:
        """Return the standing, {} before the first evaluation."""
        if self._evaluations is not None:
            self.standing = self.standing._replace(num_bytes=self._evaluations.sync())
        return {STANDING: self.standing._asdict()} if self.standing.evaluated else {}

    def _save_best(self, policy: Policy) -> None:
        self._require_folder()
        save_best(self._folder, policy, self._run, self._algo, self.standing)
        self._best = None

    def _save_policy(self, state: TrainState, num_updates: int) -> None:
        self._require_folder()
        save_policy(self._folder / POLICY_FILE, state, run=self._run, algo=self._algo)
        self._kept = num_updates

    def _require_folder(self) -> None:
        """Raise FileNotFoundError if the folder was deleted: saving would make it again, without its config."""
        if not self._folder.is_dir():
            raise FileNotFoundError(2, "No such file or directory", str(self._folder))

    def _try(self, name: str, what: str, hint: str, write: Callable[..., Any], *args: Any) -> None:
        """Call `write`. A failure is counted; it is said unless the same one was said last."""
        try:
            write(*args)
        except FAILURES as error:
            why = getattr(error, "strerror", None) or str(error)
            self.failures += 1
            self.last_error = f"{what} could not be written to {self._folder}: {why}"
            if self._said.get(name) != why:
                self._warn(f"{self.last_error}{f' ({hint})' if hint else ''}; training continues")
            self._said[name] = why
        else:
            self._said.pop(name, None)
