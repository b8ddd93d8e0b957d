"""A training session: train with a display, keep everything in the run folder, evaluate at the end.

A session begins a run or continues one. Signals are collected from its start to its end: the first one ends training
after the current chunk, and everything that was learned is saved.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from purejaxppo.cli.chunks import chunks
from purejaxppo.cli.exit_codes import FAILED, FINISHED, OUT_OF_MEMORY
from purejaxppo.cli.output import tolerant_output
from purejaxppo.cli.signals import Received, collect_signals, in_background
from purejaxppo.config.schema import Run
from purejaxppo.training.errors import OutOfMemoryError
from purejaxppo.training.intervals import Interval
from purejaxppo.training.results import (
    EVALUATION_EPISODES,
    Outcome,
    evaluate_policy,
    evaluated_line,
    evaluation_line,
    write_results,
)
from purejaxppo.training.run_folder import EVALUATIONS_FILE, METRICS_FILE

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics
    from purejaxppo.tracking.metrics_file import MetricsFile
    from purejaxppo.training.policy_file import Policy
    from purejaxppo.training.recorder import Recorder
    from purejaxppo.training.selection import Evaluated, Standing
    from purejaxppo.types import Algorithm, TrainState

GRACE_SECONDS = 5.0  # a chunk that takes longer than this after a signal is given up

EVALUATED = ("finished", "paused")  # how training may have ended if its policy is evaluated


class Start(NamedTuple):
    """Where a session begins."""

    num_updates: int = 0
    state: TrainState | None = None  # None: the first state of the seed
    metrics_bytes: int | None = None  # length of metrics.csv that is kept; None: it is a new file
    seconds: float = 0.0  # of training before
    overrides: tuple[dict[str, Any], ...] = ()  # settings that were changed since the run began
    standing: Standing | None = None  # of the evaluations before; None: there were none
    evaluations_bytes: int | None = None  # length of evaluations.csv that is kept; None: it is a new file


class Limits(NamedTuple):
    """What a session is to do."""

    interval: Interval  # between checkpoints
    num_updates: int = 0  # updates to train before it stops; 0: to the end of the run

    def last(self, run: Run, start: Start) -> int:
        """Return the number of updates at which the session stops."""
        total = run.config.num_updates
        return min(start.num_updates + self.num_updates, total) if self.num_updates else total


def run_session(run: Run, algo: Algorithm, folder: Path, start: Start, limits: Limits) -> int:
    """Train, save the state and the policy, evaluate it and write the results.

    Args:
        run: the settings.
        algo: what `purejaxppo.training.runs.build` returned for them.
        folder: the run folder, which this process has claimed and locked.
        start: where to begin.
        limits: how far to go, and how often to save.

    Returns:
        The exit code.
    """
    with tolerant_output(), collect_signals() as received:
        _announce(run, folder, start)
        outcome = train_and_log(run, algo, folder, start, limits, received)
        steps = outcome.num_updates * run.config.timesteps_per_update
        first = f"compilation and first update: {outcome.seconds_first_update:.1f} s"
        print(f"{outcome.status}: {steps:,} env steps in {outcome.seconds:.1f} s ({first})", flush=True)
        outcome = _evaluate_and_write(run, algo, folder, outcome, received)
        if folder.is_dir():
            print(f"kept in {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
        if outcome.message:
            print(f"purejaxppo: {outcome.message}", file=sys.stderr)
        return outcome.code


def _announce(run: Run, folder: Path, start: Start) -> None:
    import jax

    device = jax.devices()[0]
    kind = device.platform if device.device_kind == device.platform else f"{device.platform} ({device.device_kind})"
    config = run.config
    updates = f"{config.num_updates} updates of {config.num_envs} x {config.num_steps} steps"
    print(f"{run.env}, seed {run.seed}: {updates} on {kind}\nrun folder: {folder}", flush=True)
    if start.num_updates:
        print(f"continuing after update {start.num_updates}", flush=True)


def _warn(text: str) -> None:
    print(f"purejaxppo: warning: {text}", file=sys.stderr, flush=True)


def train_and_log(run: Run, algo: Algorithm, folder: Path, start: Start, limits: Limits, received: Received) -> Outcome:
    """Train chunk by chunk. The metrics of a chunk are in the folder before the next one ends.

    Args:
        run: the settings.
        algo: the algorithm.
        folder: the run folder.
        start: where to begin.
        limits: how far to go, and how often to save.
        received: signals that were received; it grows.
    """
    from purejaxppo.cli.run_log import RunLog
    from purejaxppo.tracking.metrics_file import metrics_file
    from purejaxppo.tracking.progress import display
    from purejaxppo.tracking.tolerant import never_raises
    from purejaxppo.training.conditions import CONDITIONS, conditions
    from purejaxppo.training.recorder import Position, Recorder
    from purejaxppo.training.selection import Evaluated, Standing

    last = limits.last(run, start)
    log = RunLog(run, start.state, Position(start.num_updates, start.seconds))
    with (
        metrics_file(folder / METRICS_FILE, start.metrics_bytes) as csv,
        _evaluations_file(run, folder, start.evaluations_bytes) as evaluations,
        display(log.meter.report.total) as show,
    ):
        details = {"overrides": list(start.overrides), CONDITIONS: conditions()}
        saved = None if start.state is None else start.num_updates
        standing = start.standing or Standing()
        recorder = Recorder(
            folder, run, algo, csv, limits.interval, _warn, details, saved, evaluations=evaluations, standing=standing
        )
        update, say = (never_raises(call, "the display", _warn) for call in (show.update, show.say))
        items = _items(run, algo, start, last, recorder)
        try:
            for item in in_background(items, _poll(received, say)):
                with received.shield():  # the last state and the last row belong together
                    if isinstance(item, Evaluated):
                        log.exclude(item.seconds)
                        recorder.add_evaluation(item, log.position)
                    else:
                        rows = log.add(*item)
                        if log.fault:
                            recorder.save(log.state, log.position)  # it belongs to the rows before these
                        recorder.write(rows)
                if isinstance(item, Evaluated):
                    _show(item, recorder.standing, say)
                update(log.meter.report)
                if received or log.fault:
                    break
                recorder.save_if_due(log.state, log.position)
        except KeyboardInterrupt:  # the second Ctrl-C does not wait for the chunk
            pass
        finally:
            complete = recorder.save(log.state, log.position)
    outcome = log.outcome(received, last, folder)._replace(best=recorder.standing.as_result())
    if recorder.failures:
        _warn(f"{recorder.failures} attempts to write to {folder} failed")
    return outcome if complete else _failed(outcome, recorder.last_error)


def _show(item: Evaluated, standing: Standing, say: Callable[[str], None]) -> None:
    """Print the line of an evaluation; one that could not be made is a warning."""
    line = evaluated_line(item.num_updates, item.figures, standing.best, item.problem)
    (say if item.figures else _warn)(line)


@contextmanager
def _evaluations_file(run: Run, folder: Path, num_bytes: int | None) -> Iterator[MetricsFile | None]:
    """Open evaluations.csv if policies are evaluated during training; `num_bytes` of an old file stay."""
    from purejaxppo.tracking.metrics_file import metrics_file

    if not run.evaluate_every:
        yield None
        return
    with metrics_file(folder / EVALUATIONS_FILE, num_bytes) as file:
        yield file


def _items(
    run: Run, algo: Algorithm, start: Start, last: int, recorder: Recorder
) -> Iterator[tuple[TrainState, Metrics] | Evaluated]:
    """Yield chunk after chunk, and the evaluations between them."""
    from purejaxppo.training.memory import explain_exhaustion
    from purejaxppo.training.selection import with_evaluations

    def evaluate(policy: Policy, num_updates: int) -> dict[str, float]:
        return evaluate_policy(algo, policy, run.seed, EVALUATION_EPISODES, True, num_updates)

    items = chunks(run, algo, start.state, start.num_updates, last, recorder.updates_until_due)
    items = explain_exhaustion(items, run, algo)
    return with_evaluations(items, run, start.state, start.num_updates, recorder.standing, evaluate)


def _poll(received: list[int], say: Callable[[str], None]) -> Callable[[], bool]:
    """Return a function that says when a signal came, and then returns whether to give up the current chunk."""
    said: list[float] = []

    def poll() -> bool:
        if received and not said:
            said.append(time.monotonic())
            say("stopping after this chunk (Ctrl-C again stops at once)")
        return bool(said) and time.monotonic() - said[0] > GRACE_SECONDS

    return poll


def _failed(outcome: Outcome, error: str) -> Outcome:
    """Return an outcome with the message that something was not saved."""
    message = f"error: {error}"
    return outcome._replace(code=FAILED, message=f"{outcome.message}\n{message}" if outcome.message else message)


def _evaluate_and_write(run: Run, algo: Algorithm, folder: Path, outcome: Outcome, received: list[int]) -> Outcome:
    """Evaluate the policy of a run that ended well, and write the results whatever happens meanwhile."""
    evaluations: dict[str, dict[str, float]] = {}
    try:
        if outcome.status in EVALUATED and outcome.policy is not None and not received:
            with suppress(KeyboardInterrupt):
                items = _evaluations(run, algo, outcome.policy)
                for name, evaluation in in_background(items, lambda: bool(received)):
                    evaluations[name] = evaluation
                    print(evaluation_line(name, evaluation), flush=True)
    except OutOfMemoryError as error:
        outcome = _failed(outcome, f"no evaluation: {error}")._replace(code=OUT_OF_MEMORY)
    finally:
        try:
            write_results(folder, run, outcome, evaluations)
        except OSError as error:
            outcome = _failed(outcome, f"the results could not be written to {folder}: {error.strerror or error}")
    if received and outcome.code == FINISHED:
        message = f"stopped in the evaluation; to repeat it: purejaxppo resume {folder}"
        outcome = outcome._replace(code=128 + received[0], message=message)
    return outcome


def _evaluations(run: Run, algo: Algorithm, policy: Policy) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield (name, figures) of the evaluation of the greedy and of the sampled policy."""
    for name in ("greedy", "sampled"):
        yield name, evaluate_policy(algo, policy, run.seed, EVALUATION_EPISODES, name == "greedy")
