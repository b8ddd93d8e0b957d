"""Keep what a run produces in its folder: metrics, checkpoints and the policy."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo._util.version import __version__
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml
from purejaxppo.tracking.csv_file import Row
from purejaxppo.tracking.metrics_file import MetricsFile
from purejaxppo.training.checkpoint_folder import KEEP, save_in_run
from purejaxppo.training.policy_file import save_policy
from purejaxppo.types import Algorithm, TrainState

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
SHARE = 0.01  # of the run time that saving may take unless an interval was asked for


class Interval(NamedTuple):
    """How often a checkpoint is saved; `inf` means never."""

    updates: float = math.inf
    seconds: float = math.inf
    adapts: bool = False  # seconds grow until saving takes at most SHARE of the time


DEFAULT_INTERVAL = Interval(seconds=60.0, adapts=True)


def parse_interval(text: str) -> Interval:
    """Return the interval that a text such as "500" (updates), "90s", "5m", "1h" or "off" stands for.

    Raises:
        ValueError: the text is none of these.
    """
    if text == "auto":
        return DEFAULT_INTERVAL
    if text == "off":
        return Interval()
    if re.fullmatch("[0-9]{1,10}", text) and int(text):
        return Interval(updates=int(text))
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", text)
    if match and float(match[1]):
        return Interval(seconds=float(match[1]) * UNITS[match[2]])
    raise ValueError(f"{text!r} is not an interval: write 500 for updates, 90s, 5m, 1h, auto or off")


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
        overrides: settings that were changed when the run was resumed, for the manifest.
        saved: number of updates of the checkpoint that the run was resumed from.
        keep: number of checkpoints to keep.
    """

    def __init__(
        self,
        folder: Path,
        run: Run,
        algo: Algorithm,
        csv: MetricsFile,
        interval: Interval,
        warn: Callable[[str], None],
        overrides: Sequence[Mapping[str, Any]] = (),
        saved: int | None = None,
        keep: int = KEEP,
    ):
        self.failures = 0
        self.saved = saved  # updates of the newest checkpoint
        self._folder, self._run, self._algo, self._csv = folder, run, algo, csv
        self._interval, self._warn, self._keep = interval, warn, keep
        self._overrides = [dict(override) for override in overrides]
        self._saved_at = time.monotonic()
        self._last_error = ""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows to metrics.csv."""
        try:
            self._csv.write(rows)
            self._last_error = ""
        except OSError as error:
            self._failed("metrics.csv", error)

    def updates_until_due(self, num_updates: int) -> int | None:
        """Return after how many more updates a checkpoint is due, or None if its time is not counted in updates."""
        every = self._interval.updates
        return None if math.isinf(every) else int(every - num_updates % every)

    def save_if_due(self, state: TrainState, position: Position) -> None:
        """Save a checkpoint if the interval has passed."""
        by_updates = position.num_updates % self._interval.updates == 0
        if by_updates or time.monotonic() - self._saved_at >= self._interval.seconds:
            self.save(state, position)

    def save(self, state: TrainState, position: Position) -> bool:
        """Save a checkpoint and the policy, and return whether both are on disk."""
        if self.saved == position.num_updates:
            return True
        started = time.monotonic()
        try:
            if not self._folder.is_dir():  # saving would make it again, without its config
                raise FileNotFoundError(2, "No such file or directory", str(self._folder))
            details = {
                "run": dump_toml(self._run),
                "metrics_bytes": self._csv.sync(),
                "seconds": position.seconds,
                "overrides": self._overrides,
            }
            save_in_run(self._folder, state, self._run.hyperparams, self._algo, details, self._keep)
            texts = {"env": self._run.env, "purejaxppo": __version__, "config": details["run"]}
            save_policy(self._folder / "policy.safetensors", state, texts)
            self.saved, self._last_error = position.num_updates, ""
        except OSError as error:
            self._failed(f"the checkpoint after update {position.num_updates}", error)
        self._saved_at = time.monotonic()
        if self._interval.adapts:
            seconds = max(DEFAULT_INTERVAL.seconds, (self._saved_at - started) / SHARE)
            self._interval = self._interval._replace(seconds=seconds)
        return self.saved == position.num_updates

    def _failed(self, what: str, error: OSError) -> None:
        """Count a failure, and warn of it unless the previous one was the same."""
        self.failures += 1
        reason = error.strerror or str(error)
        if f"{what.split()[0]} {reason}" != self._last_error:
            newest = "no checkpoint exists" if self.saved is None else f"the newest is that of update {self.saved}"
            hint = f" ({newest})" if "checkpoint" in what else " (its rows are kept for later)"
            self._warn(f"{what} could not be written to {self._folder}: {reason}{hint}; training continues")
        self._last_error = f"{what.split()[0]} {reason}"
