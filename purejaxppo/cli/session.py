"""A training session: train with a display, keep everything in the run folder, evaluate at the end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.output import tolerant_output
from purejaxppo.cli.signals import collect_signals, in_background
from purejaxppo.config.schema import Run
from purejaxppo.training.faults import find_fault
from purejaxppo.training.results import EVALUATION_EPISODES, Outcome, evaluate_policy, evaluation_line, write_results
from purejaxppo.training.run_folder import METRICS_FILE, POLICY_FILE

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics
    from purejaxppo.tracking.meter import Meter
    from purejaxppo.training.policy_file import Policy
    from purejaxppo.types import Algorithm, TrainState

CHUNK_SECONDS = 0.7  # about the longest time between two updates of the display

MAX_CHUNK = 4096  # updates; the program has room for the metrics of a whole chunk


def run_session(run: Run, algo: Algorithm, folder: Path) -> int:
    """Train, save the policy, evaluate it and write the results.

    Args:
        run: the settings.
        algo: what `purejaxppo.training.runs.build` returned for them.
        folder: the run folder, which this process has claimed.

    Returns:
        The exit code.
    """
    with tolerant_output():
        return _run_session(run, algo, folder)


def _run_session(run: Run, algo: Algorithm, folder: Path) -> int:
    _announce(run, folder)
    outcome = train_and_log(run, algo, folder)
    _save(run, outcome, folder)
    steps = outcome.num_updates * run.config.timesteps_per_update
    first = f"compilation and first update: {outcome.seconds_first_update:.1f} s"
    print(f"{outcome.status}: {steps:,} env steps in {outcome.seconds:.1f} s ({first})", flush=True)
    evaluations: dict[str, dict[str, float]] = {}
    try:
        if outcome.status == "finished" and outcome.policy is not None:
            for name in ("greedy", "sampled"):
                greedy = name == "greedy"
                evaluations[name] = evaluate_policy(algo, outcome.policy, run.seed, EVALUATION_EPISODES, greedy)
                print(evaluation_line(name, evaluations[name]), flush=True)
    finally:
        write_results(folder, run, outcome, evaluations)
    print(f"kept in {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
    if outcome.message:
        print(f"purejaxppo: {outcome.message}", file=sys.stderr)
    return outcome.code


def _announce(run: Run, folder: Path) -> None:
    import jax

    device = jax.devices()[0]
    kind = device.platform if device.device_kind == device.platform else f"{device.platform} ({device.device_kind})"
    config = run.config
    updates = f"{config.num_updates} updates of {config.num_envs} x {config.num_steps} steps"
    print(f"{run.env}, seed {run.seed}: {updates} on {kind}\nrun folder: {folder}", flush=True)


def _save(run: Run, outcome: Outcome, folder: Path) -> None:
    from purejaxppo.training.policy_file import save_policy

    if outcome.policy is not None:
        save_policy(folder / POLICY_FILE, outcome.policy, run=run)


def train_and_log(run: Run, algo: Algorithm, folder: Path) -> Outcome:
    """Train chunk by chunk. The metrics of a chunk are in the folder before the next one ends."""
    from purejaxppo.tracking.csv_file import csv_sink
    from purejaxppo.tracking.meter import Meter
    from purejaxppo.tracking.progress import display
    from purejaxppo.training.memory import explain_exhaustion

    total = run.config.num_updates * run.config.timesteps_per_update
    log = _Log(run, Meter(total))
    with collect_signals() as received, csv_sink(folder / METRICS_FILE) as write, display(total) as show:
        said: list[int] = []

        def poll() -> bool:
            if received and not said:
                said.append(received[0])
                show.say("stopping after this chunk (Ctrl-C again stops at once)")
            return False

        with suppress(KeyboardInterrupt):  # the second Ctrl-C does not wait for the chunk
            for state, metrics in in_background(explain_exhaustion(_chunks(run, algo), run, algo), poll):
                write(log.add(state, metrics))
                show.update(log.meter.report)
                if received or log.fault:
                    break
    return log.outcome(received, folder)


class _Log:
    """The progress of a run on the host: updates done, the last good policy, the first fault."""

    def __init__(self, run: Run, meter: Meter):
        self.run, self.meter = run, meter
        self.started = time.monotonic()
        self.done, self.kept, self.seconds_first_update = 0, 0, 0.0
        self.policy: Policy | None = None
        self.fault = ""

    def add(self, state: TrainState, metrics: Metrics) -> list[dict[str, float]]:
        """Take in the state after a chunk and its metrics, and return the rows up to the first fault."""
        from purejaxppo.tracking.csv_file import rows_of
        from purejaxppo.training.policy_file import Policy

        size = self.run.config.timesteps_per_update
        rows = rows_of(metrics, self.done, size, self.meter.report.seconds, time.monotonic() - self.started)
        faults = [find_fault(row, self.run.env) for row in rows]
        bad = next((i for i, fault in enumerate(faults) if fault), None)
        if bad is None:
            self.policy, self.kept = Policy(state.params, state.obs_moments), self.done + len(rows)
        else:
            self.fault, rows = faults[bad], rows[: bad + 1]
        self.done += len(rows)
        self.meter.measure(rows)
        self.seconds_first_update = self.seconds_first_update or self.meter.report.seconds
        return rows

    def outcome(self, received: list[int], folder: Path) -> Outcome:
        """Return how training ended, given the signals that were received."""
        times = (self.done, self.meter.report.seconds, self.seconds_first_update, self.policy)
        if self.fault:
            return Outcome("diverged", FAILED, *times, self._fault_message())
        if received and self.done < self.run.config.num_updates:
            how = "" if self.policy is None else f"; to evaluate the policy: purejaxppo evaluate {folder}"
            return Outcome("interrupted", 128 + received[0], *times, f"stopped before the end of the run{how}")
        return Outcome("finished", FINISHED, *times, "")

    def _fault_message(self) -> str:
        steps = self.done * self.run.config.timesteps_per_update
        place = f"update {self.done} of {self.run.config.num_updates} ({steps:,} env steps)"
        kept = "no policy was kept" if self.policy is None else f"{POLICY_FILE} is the policy after update {self.kept}"
        return f"{place}: {self.fault}\n{kept}"


def _chunks(run: Run, algo: Algorithm) -> Iterator[tuple[TrainState, Metrics]]:
    """Yield (state, metrics) after every hundredth of the run, or about every second if that is sooner."""
    import jax

    from purejaxppo.training.loop import init_state, iterate
    from purejaxppo.training.memory import check_update_memory

    h, remaining = run.hyperparams, run.config.num_updates
    size = min(math.ceil(remaining / 100), MAX_CHUNK)  # one program serves all chunks up to this length
    state = init_state(algo, jax.random.key(run.seed), h)
    check_update_memory(run, algo, state, size)
    length, compiled = 1, False
    while remaining > 0:
        started = time.monotonic()
        state, metrics = next(iterate(algo, state, h, num_updates=length, chunk=size))
        yield state, metrics
        remaining -= length
        if compiled:  # the first chunk includes the compilation and says nothing about the speed
            faster = CHUNK_SECONDS / max(time.monotonic() - started, 1e-3)
            length = math.ceil(length * min(faster, 8.0))
        length, compiled = min(length, size, remaining), True
