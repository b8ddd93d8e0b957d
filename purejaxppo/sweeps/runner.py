"""Run a sweep piece by piece: every piece is on disk when it is finished, so that a sweep goes on after a kill."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.text import duration, short
from purejaxppo.analysis.statistics import failed_as_worst, interquartile_mean
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.devices.sharding import largest_device_count
from purejaxppo.sweeps import store
from purejaxppo.sweeps.engine import Engine, stack_env_params, stack_hyperparams
from purejaxppo.sweeps.execution import Execution
from purejaxppo.sweeps.points import point_updates, summarize
from purejaxppo.sweeps.population import copy_runs
from purejaxppo.sweeps.spec import Sweep, structure_of
from purejaxppo.sweeps.store import Piece
from purejaxppo.training.health import faults_of_runs
from purejaxppo.training.policy_file import Policy, save_policy
from purejaxppo.types import Algorithm, TrainState

Trial = tuple[int, int]  # (setting, seed)

_copy_runs = jax.jit(copy_runs)

SAVE_SECONDS = 20.0  # between two saves of the piece that runs


class Group(NamedTuple):
    """The settings that share one program."""

    index: int
    settings: tuple[int, ...]
    run: Run  # settings of the group; its hyperparameters and traced parameters are those of the first setting
    algo: Algorithm


class Schedule(NamedTuple):
    """Hyperparameters of R runs at each evaluation point.

    `columns` are the results up to a point, [R, P] each.
    """

    hyperparams: Callable[[int, Mapping[str, np.ndarray]], Hyperparams]  # (point, columns before it) -> [R]
    varied: tuple[str, ...] = ()  # hyperparameters that change; each is kept as a column
    parents: Callable[[int, Mapping[str, np.ndarray]], np.ndarray] | None = None
    """(point, columns) -> [R]: the run whose state each run goes on from."""
    seeds: tuple[int, ...] = ()  # [R] of the runs; (): those of the trials


HYPERPARAMS = "hyperparams/"  # columns of what varies
PARENT = "parent"


class Span(NamedTuple):
    """An interval of the runs, between two evaluation points."""

    name: str  # of the pieces: stage0, stage1, ..., batch000, ..., population or test
    first: int  # points before it
    last: int  # points up to its end
    is_last: bool


def group_settings(sweep: Sweep) -> list[tuple[int, ...]]:
    """Return the settings by structure: those of a group differ in hyperparameters and traced parameters only."""
    groups: dict[str, list[int]] = {}
    for i, setting in enumerate(sweep.settings):
        groups.setdefault(json.dumps(structure_of(setting, sweep.traced), sort_keys=True), []).append(i)
    return [tuple(settings) for settings in groups.values()]


def spans_of(halvings: int, points: int) -> list[Span]:
    """Return the stages of successive halving: they end at 1/2^h, ..., 1/2 and 1 of the run."""
    ends = sorted({max(1, points // 2 ** (halvings - k)) for k in range(halvings + 1)})
    starts = [0, *ends[:-1]]
    return [
        Span(f"stage{k}", *ends_of, ends_of[1] == points) for k, ends_of in enumerate(zip(starts, ends, strict=True))
    ]


class Runner:
    """Runs the pieces of a sweep that are not in its folder yet."""

    def __init__(
        self,
        folder: Path,
        sweep: Sweep,
        groups: Sequence[Group],
        executions: Sequence[Execution],
        say: Callable[[str], None] = print,
        save_seconds: float = SAVE_SECONDS,
    ):
        self.folder, self.sweep, self.groups, self.say = folder, sweep, list(groups), say
        self.save_seconds = save_seconds
        self.group_of = {setting: group for group in groups for setting in group.settings}
        self.engines = [self._engine(group, executions[group.index]) for group in groups]
        self.places: dict[Trial, tuple[str, int]] = {}  # piece and row with the newest results of a trial
        self.results: dict[str, Piece] = {}  # finished pieces, without their states
        self.started, self.steps, self.total_steps = time.monotonic(), 0, 0

    def _engine(self, group: Group, execution: Execution) -> Engine:
        options, runs = self.sweep.options, execution.lanes * execution.num_devices
        if options.method == "population":  # its runs meet after every point
            runs = options.num_settings
        # A sweep that goes on with fewer devices keeps the size of its pieces.
        num_devices = largest_device_count(execution.num_devices, runs)
        lanes, segment = min(execution.lanes, runs // num_devices), segment_of(group.run, options.points)
        return Engine(group.algo, lanes, num_devices, segment, options.episodes, options.greedy, runs)

    def width(self, setting: int) -> int:
        """Return the number of runs of every call for a setting."""
        return self.engines[self.group_of[setting].index].width

    def points(self, group: Group) -> list[int]:
        """Return after how many updates the evaluation points of a group lie."""
        return point_updates(group.run.config.num_updates, self.sweep.options.points)

    def run(self) -> dict[str, tuple[int, ...]]:
        """Run the stages, then the test of the winners. Returns the winners by task."""
        alive = list(range(len(self.sweep.settings)))
        count = self.count
        stages = spans_of(min(self.sweep.options.halvings, count.bit_length() - 1), count)
        self.expect(stages)
        for k, span in enumerate(stages):
            self.run_span(span, [(setting, seed) for setting in alive for seed in self.sweep.seeds])
            if k + 1 < len(stages):
                alive = self._better_half(alive)
                self.say(f"halving {k + 1}: {len(alive)} settings go on")
        return self.test_winners(alive)

    @property
    def count(self) -> int:
        """Return the number of evaluation points that every run has."""
        return min(len(self.points(group)) for group in self.groups)

    def expect(self, stages: Sequence[Span]) -> None:
        """Note how many environment steps the sweep takes, for the progress."""
        self.total_steps = self._steps_of(stages)

    def test_winners(self, settings: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Train the best of some settings with the seeds of the test, and return it by task."""
        winners = {task: (ranked[0],) for task, ranked in self.ranked(settings).items()}
        trials = [(w[0], seed) for w in winners.values() for seed in self.sweep.test_seeds]
        self.run_span(Span("test", 0, self.count, True), trials)
        return winners

    def _steps_of(self, stages: Sequence[Span]) -> int:
        """Return the environment steps of the whole sweep, up to the rounding of halves."""
        per_setting = {
            s: g.run.config.num_updates * g.run.config.timesteps_per_update for g in self.groups for s in g.settings
        }
        points = stages[-1].last
        share = sum((span.last - span.first) / points / 2**k for k, span in enumerate(stages))
        test = max(per_setting.values()) * len({g.run.env for g in self.groups}) * len(self.sweep.test_seeds)
        return int(sum(per_setting.values()) * len(self.sweep.seeds) * share) + test

    # ---- one span

    def run_span(self, span: Span, trials: Sequence[Trial], schedule: Schedule | None = None) -> None:
        """Run some trials from the start to the end of a span, as many side by side as a call of their group takes."""
        for group in self.groups:
            mine = [trial for trial in trials if trial[0] in group.settings]
            width = self.engines[group.index].width
            chunks = [mine[i : i + width] for i in range(0, len(mine), width)]
            for i, chunk in enumerate(chunks):
                self.finish_piece(f"{span.name}-{group.index:02d}-{i:04d}", group, span, chunk, schedule)

    def finish_piece(
        self, name: str, group: Group, span: Span, trials: Sequence[Trial], schedule: Schedule | None = None
    ) -> Piece:
        """Return the results of a piece, which is run unless it is in the folder.

        Args:
            name: of the piece.
            group: of the trials.
            span: the interval of the runs.
            trials: at most as many as a call takes.
            schedule: of the hyperparameters; None: each trial keeps those of its setting.
        """
        piece = store.read_piece(self.folder, name)
        if piece is None:
            piece = self._run_piece(name, group, span, trials, schedule)
            store.write_piece(self.folder, name, piece)
            store.remove_running(self.folder, name)
        self.results[name] = piece._replace(states={})
        self.places |= {trial: (name, row) for row, trial in enumerate(trials)}
        self._report(span, group, piece)
        return piece

    def _run_piece(
        self, name: str, group: Group, span: Span, trials: Sequence[Trial], schedule: Schedule | None = None
    ) -> Piece:
        """Train some trials from one point to another, and evaluate them at the end of the runs."""
        engine, started, count = self.engines[group.index], time.monotonic(), len(trials)
        padded = [*trials, *[trials[-1]] * (engine.width - count)]
        if schedule is None:
            constant = stack_hyperparams([self.sweep.run(setting).hyperparams for setting, _ in padded])
            schedule = Schedule(lambda point, columns: constant)
        seeds = schedule.seeds or [seed for _, seed in padded]
        levels = stack_env_params(group.algo, [self.sweep.run(setting) for setting, _ in padded])
        running = store.read_piece(self.folder, store.running_name(name))
        if running is not None and running.trials == tuple(trials):
            columns, failed, arrays, seconds = running.columns, running.failed, running.states, running.seconds
        else:
            columns, failed, arrays, seconds = {}, np.zeros(count, np.int64), self._arrays_before(span, padded), 0.0
        shapes = engine.shapes()[0]
        states = store.states_of(arrays, shapes) if arrays else engine.start(seeds, schedule.hyperparams(0, {}), levels)
        done = span.first + (len(next(iter(columns.values()))[0]) if columns else 0)
        saved = time.monotonic()
        for point in range(done, span.last):
            states, columns, failed = self._to_point(engine, group, states, schedule, point, columns, failed)
            if time.monotonic() - saved >= self.save_seconds and point + 1 < span.last:
                spent = seconds + time.monotonic() - started
                kept = Piece(tuple(trials), columns, failed, store.state_arrays(states), np.zeros(0), spent)
                store.write_piece(self.folder, store.running_name(name), kept)
                saved = time.monotonic()
        score = np.full(count, np.nan)
        if span.is_last:
            returns = engine.play(states, seeds, levels).mean(1)[:count]
            score = np.where(failed > 0, np.nan, returns)
        kept_states = Policy(states.params, states.obs_moments) if span.is_last else states
        rows = store.take_rows(store.state_arrays(kept_states), range(count))
        seconds += time.monotonic() - started
        return Piece(tuple(trials), columns, failed, rows, score, seconds)

    def _to_point(
        self,
        engine: Engine,
        group: Group,
        states: TrainState,
        schedule: Schedule,
        point: int,
        columns: Mapping[str, np.ndarray],
        failed: np.ndarray,
    ) -> tuple[TrainState, dict[str, np.ndarray], np.ndarray]:
        """Return the states at the next point, the columns up to it, and the update of each run's fault (0: none)."""
        points, per_update, count = self.points(group), group.run.config.timesteps_per_update, len(failed)
        before, after = points[point - 1] if point else 0, points[point]
        h = schedule.hyperparams(point, columns)
        states, metrics = engine.advance(states, h, after - before)
        self.steps += (after - before) * per_update * engine.width
        faults = np.zeros(engine.width, np.int64)
        for (run,), fault in faults_of_runs(metrics, group.run.env, before).items():
            faults[run] = fault.update
        failed = np.where(failed > 0, failed, faults[:count])
        row = summarize(metrics, after * per_update)
        row |= {f"{HYPERPARAMS}{name}": np.asarray(getattr(h, name), np.float64) for name in schedule.varied}
        if schedule.parents is not None:  # the runs that failed are the worst of their population
            row["return"] = np.where(failed > 0, np.nan, row["return"][:count])
        grown = {key: _with_point(columns.get(key), row[key][:count]) for key in row}
        if schedule.parents is not None:
            parents = schedule.parents(point, grown)
            grown[PARENT] = _with_point(columns.get(PARENT), parents)
            states, failed = _copy_runs(states, jnp.asarray(parents)), failed[parents]
        return states, grown, failed

    def _arrays_before(self, span: Span, trials: Sequence[Trial]) -> dict[str, np.ndarray]:
        """Return the states of trials that the stage before left; {} at the start of the runs."""
        if span.first == 0:
            return {}
        names = {self.places[trial][0] for trial in trials}
        pieces = {name: store.read_whole_piece(self.folder, name) for name in names}
        rows = []
        for trial in trials:
            name, row = self.places[trial]
            rows.append(store.take_rows(pieces[name].states, [row]))
        return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}

    def run_alone(self, trial: Trial, schedule: Schedule | None = None) -> Piece:
        """Return the results of one trial from the start to the end of its run; nothing is written."""
        group = self.group_of[trial[0]]
        save_seconds, self.save_seconds = self.save_seconds, float("inf")
        piece = self._run_piece("alone", group, Span("alone", 0, len(self.points(group)), True), [trial], schedule)
        self.save_seconds = save_seconds
        return piece

    # ---- selection

    def _scores(self, settings: Sequence[int]) -> dict[int, np.ndarray]:
        """Return what `_score` says of each seed of each setting, [S, 2]; the runs that failed have NaN."""
        found: dict[int, np.ndarray] = {}
        for setting in settings:
            rows = [self.places[setting, seed] for seed in self.sweep.seeds]
            found[setting] = np.array([self._score(self.results[name], row) for name, row in rows])
        return found

    def _score(self, piece: Piece, row: int) -> tuple[float, float]:
        """Return the score of a trial, and its mean return over the points so far, which decides between equal scores.

        The score is the final evaluation, or before it the return at the last point. Without a finished episode the
        mean is NaN.
        """
        if piece.failed[row]:
            return np.nan, np.nan
        curve = piece.columns["return"][row]
        known = curve[np.isfinite(curve)]
        mean, last = (float(known.mean()), float(known[-1])) if known.size else (np.nan, np.nan)
        if self.sweep.options.score == "area":
            return mean, mean
        return float(piece.score[row]) if np.isfinite(piece.score[row]) else last, mean

    def level(self, setting: int) -> float:
        """Return the score of a setting: the interquartile mean over its seeds, failed runs as the worst of its task.

        Without a run that did not fail it is -inf.
        """
        known = {trial[0] for trial in self.places if self.group_of[trial[0]].run.env == self.group_of[setting].run.env}
        scores = self._scores(sorted(known))
        return _level(scores[setting], np.concatenate(list(scores.values())))[0]

    def ranked(self, settings: Sequence[int]) -> dict[str, list[int]]:
        """Return the settings of each task, best first; failed runs count as the worst run of their task."""
        scores = self._scores(settings)
        tasks: dict[str, list[int]] = {}
        for setting in settings:
            tasks.setdefault(self.group_of[setting].run.env, []).append(setting)
        ranked = {}
        for task, members in tasks.items():
            every = np.concatenate([scores[setting] for setting in members])
            level = {s: _level(scores[s], every) for s in members}
            ranked[task] = sorted(members, key=lambda s, level=level: (*(-x for x in level[s]), s))
        return ranked

    def _better_half(self, settings: Sequence[int]) -> list[int]:
        kept = [s for ranked in self.ranked(settings).values() for s in ranked[: -(-len(ranked) // 2)]]
        return sorted(kept)

    # ---- what the user sees

    def _report(self, span: Span, group: Group, piece: Piece) -> None:
        """Print the progress, and the best settings so far."""
        spent = time.monotonic() - self.started
        done = min(self.steps / max(self.total_steps, 1), 1.0)
        rate = self.steps / max(spent, 1e-9)
        known = {trial[0] for trial in self.places}
        whole = [s for s in known if all((s, seed) in self.places for seed in self.sweep.seeds)]
        best = ""
        if whole and span.name not in ("test", "population"):
            ranked = self.ranked([s for s in whole if self.group_of[s].run.env == group.run.env])
            scores = self._scores([ranked[group.run.env][0]])
            leader, values = next(iter(scores.items()))
            level = interquartile_mean(failed_as_worst(values[:, 0]))
            best = f"  best so far: {self.sweep.labels[leader]}, IQM {level:.4g}"
        failed = f"  {int((piece.failed > 0).sum())} failed" if (piece.failed > 0).any() else ""
        self.say(f"{done:4.0%}  {duration(spent)}  {short(self.steps)} env steps  {short(rate)} steps/s{failed}{best}")

    # ---- results

    def pieces(self) -> dict[str, Piece]:
        """Return all finished pieces by name."""
        found = {name: store.read_piece(self.folder, name) for name in store.piece_names(self.folder)}
        return {name: piece for name, piece in found.items() if piece is not None}

    def policy(self, piece: Piece, row: int) -> Policy:
        """Return the policy of a run of a piece that has its states."""
        setting, _ = piece.trials[row]
        shapes = jax.eval_shape(
            self.group_of[setting].algo.init, jax.random.key(0), self.sweep.run(setting).hyperparams
        )
        policy = store.states_of(piece.states, Policy(shapes.params, shapes.obs_moments))
        return jax.tree.map(lambda x: x[row], policy)

    def keep_policies(self, best: Sequence[tuple[str, int, int]]) -> None:
        """Write the policies of trials.

        Args:
            best: (piece, row, number of the trial) of each policy to keep.
        """
        pieces = self.pieces()
        for name, row, number in best:
            file = self.folder / store.POLICIES / f"{number:05d}.safetensors"
            save_policy(file, self.policy(pieces[name], row), run=self.sweep.run(*pieces[name].trials[row]))

    def drop_states(self) -> None:
        """Remove all states from the folder. A sweep that is not known as finished needs them to go on."""
        for name in store.piece_names(self.folder):
            store.drop_states(self.folder, name)


def _with_point(column: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    """Return a column [R, P] with the values [R] of one more point."""
    values = np.asarray(values, np.float64)[:, None]
    return values if column is None else np.concatenate([column, values], axis=1)


def _level(scores: np.ndarray, every: np.ndarray) -> list[float]:
    """Return the interquartile means of scores [S, 2] over the seeds; failed runs count as the worst of `every`."""
    filled = [failed_as_worst(scores[:, k], every[:, k]) for k in range(2)]
    return [float(interquartile_mean(np.nan_to_num(x, nan=-np.inf))) for x in filled]


def segment_of(run: Run, points: int) -> int:
    """Return the most updates between two evaluation points."""
    ends = [0, *point_updates(run.config.num_updates, points)]
    return max(b - a for a, b in itertools.pairwise(ends))
