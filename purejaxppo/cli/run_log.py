"""The progress of a run on the host: updates done, the last good state, the first fault."""

import signal
import time
from pathlib import Path

from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.config.schema import Run
from purejaxppo.metrics import Metrics
from purejaxppo.tracking.csv_file import rows_of
from purejaxppo.tracking.meter import Meter
from purejaxppo.training.faults import find_fault
from purejaxppo.training.policy_file import Policy
from purejaxppo.training.recorder import Position
from purejaxppo.training.results import Outcome
from purejaxppo.training.run_folder import POLICY_FILE
from purejaxppo.types import TrainState


class RunLog:
    """Takes in chunk after chunk of a run.

    Args:
        run: the settings.
        state: the state from which the run is continued; None at its beginning.
        position: how far the run is.
    """

    def __init__(self, run: Run, state: TrainState | None, position: Position):
        self.run, self.state, self.position = run, state, position
        self.meter = Meter(run.config.num_updates * run.config.timesteps_per_update, position.seconds)
        self.started = time.monotonic() - position.seconds
        self.done, self.seconds_first_update = position.num_updates, 0.0
        self.fault = ""

    def add(self, state: TrainState, metrics: Metrics) -> list[dict[str, float]]:
        """Take in the state after a chunk and its metrics, and return the rows up to the first fault."""
        size, before = self.run.config.timesteps_per_update, self.meter.report.seconds
        rows = rows_of(metrics, self.done, size, before, time.monotonic() - self.started)
        faults = [find_fault(row, self.run.env) for row in rows]
        bad = next((i for i, fault in enumerate(faults) if fault), None)
        if bad is not None:
            self.fault, rows = faults[bad], rows[: bad + 1]
        self.done += len(rows)
        self.meter.measure(rows)
        self.seconds_first_update = self.seconds_first_update or self.meter.report.seconds - before
        if bad is None:
            self.state, self.position = state, Position(self.done, self.meter.report.seconds)
        return rows

    def exclude(self, seconds: float) -> None:
        """Leave the duration of an evaluation out of the time of training."""
        self.started += seconds

    def outcome(self, received: list[int], last: int, folder: Path) -> Outcome:
        """Return how training ended.

        Args:
            received: signals that were received.
            last: number of updates at which this session was to stop.
            folder: the run folder.
        """
        total = self.run.config.num_updates
        policy = None if self.state is None else Policy(self.state.params, self.state.obs_moments)
        times = (self.done, self.meter.report.seconds, self.seconds_first_update, policy)
        if self.fault:
            return Outcome("diverged", FAILED, *times, self._fault_message())
        code = 128 + received[0] if received else FINISHED
        go_on = f"to continue: purejaxppo resume {folder}"
        if self.done >= total:
            return Outcome("finished", code, *times, f"stopped before the evaluation; {go_on}" if received else "")
        if self.done >= last:
            return Outcome("paused", code, *times, f"stopped before the evaluation; {go_on}" if received else go_on)
        how = go_on if self.state is None else f"{go_on}; to evaluate the policy: purejaxppo evaluate {folder}"
        code = 128 + (received[0] if received else signal.SIGINT)
        return Outcome("interrupted", code, *times, f"stopped before the end of the run; {how}")

    def _fault_message(self) -> str:
        steps = self.done * self.run.config.timesteps_per_update
        place = f"update {self.done} of {self.run.config.num_updates} ({steps:,} env steps)"
        kept = f"{POLICY_FILE} is the policy after update {self.position.num_updates}"
        return f"{place}: {self.fault}\n{'no policy was kept' if self.state is None else kept}"
