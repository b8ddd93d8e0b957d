"""Population-based training as a sweep: every seed is a population, whose worst runs copy its best after each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.schema import Hyperparams
from purejaxppo.sweeps.engine import stack_hyperparams
from purejaxppo.sweeps.population import choose_parents, explore
from purejaxppo.sweeps.runner import HYPERPARAMS, PARENT, Runner, Schedule, Span
from purejaxppo.sweeps.spec import Sweep
from purejaxppo.sweeps.store import Piece

POPULATION_KEY = 0x706274  # of the choices of a population, beside the keys of its runs
WHOLE = "population"


class Winner(NamedTuple):
    """The best run of a population."""

    name: str  # of the piece
    row: int
    score: float


def run_populations(runner: Runner) -> dict[str, tuple[int, ...]]:
    """Train a population with every seed, then repeat the schedules of the best runs with the seeds of the test.

    Returns:
        The winners by task.
    """
    sweep, size = runner.sweep, runner.sweep.options.num_settings
    span = Span(WHOLE, 0, runner.count, True)
    runner.expect([span])
    best: dict[str, tuple[int, Winner]] = {}
    for number, first in enumerate(range(0, len(sweep.settings), size)):
        group, settings = runner.group_of[first], range(first, first + size)
        for i, seed in enumerate(sweep.seeds):
            trials = [(setting, seed) for setting in settings]
            schedule = population_schedule(sweep, settings, seed, runner.count)
            name = f"{WHOLE}-{number:02d}-{i:04d}"
            piece = runner.finish_piece(name, group, span, trials, schedule)
            winner = winner_of(name, piece)
            if group.run.env not in best or winner.score > best[group.run.env][1].score:
                best[group.run.env] = (first, winner)
    winners = {}
    for task, (first, winner) in best.items():
        setting = first + winner.row
        columns = runner.results[winner.name].columns
        line = lineage(columns[PARENT], winner.row)
        schedule = repeated_schedule(columns, line, sweep.run(setting).hyperparams, runner.width(setting))
        trials = [(setting, seed) for seed in sweep.test_seeds]
        runner.run_span(Span("test", 0, runner.count, True), trials, schedule)
        winners[task] = (setting,)
    return winners


def population_schedule(sweep: Sweep, settings: Sequence[int], seed: int, count: int) -> Schedule:
    """Return the schedule of a population.

    Args:
        sweep: of the population.
        settings: the runs of the population; their hyperparameters are those of the start.
        seed: of the population.
        count: points; nothing is copied after the last one.
    """
    start = stack_hyperparams([sweep.run(setting).hyperparams for setting in settings])
    searched = tuple((axis.key.partition(".")[2], axis.low, axis.high) for axis in sweep.axes)
    copies = int(sweep.options.share * len(settings))
    base = jax.random.fold_in(jax.random.key(seed), POPULATION_KEY)

    def keys(point: int) -> tuple[jax.Array, jax.Array]:
        first, second = jax.random.split(jax.random.fold_in(base, point))
        return first, second

    def hyperparams(point: int, columns: Mapping[str, np.ndarray]) -> Hyperparams:
        if point == 0:
            return start
        before = {
            name: jnp.asarray(columns[f"{HYPERPARAMS}{name}"][:, point - 1], jnp.float32) for name, *_ in searched
        }
        parents = jnp.asarray(columns[PARENT][:, point - 1], jnp.int32)
        copied = parents != jnp.arange(len(settings))
        return explore(keys(point - 1)[1], start._replace(**before), parents, copied, searched)

    def parents(point: int, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if point + 1 == count:
            return np.arange(len(settings))
        scores = np.nan_to_num(columns["return"][:, point], nan=-np.inf)
        return np.asarray(choose_parents(keys(point)[0], jnp.asarray(scores, jnp.float32), copies))

    return Schedule(hyperparams, tuple(name for name, *_ in searched), parents, member_seeds(seed, len(settings)))


def member_seeds(seed: int, size: int) -> tuple[int, ...]:
    """Return a seed for every run of a population; populations of other seeds, and tests below 2³¹, have other ones."""
    return tuple((2**31 + seed * size + i) % 2**32 for i in range(size))


def repeated_schedule(columns: Mapping[str, np.ndarray], rows: Sequence[int], h: Hyperparams, width: int) -> Schedule:
    """Return the schedule of `width` runs that all repeat the hyperparameters of kept ones.

    Args:
        columns: of a piece, [R, P] each.
        rows: the row of each point; the last one is that of the points after it too.
        h: hyperparameters that do not change.
        width: number of runs.
    """
    names = tuple(key.removeprefix(HYPERPARAMS) for key in columns if key.startswith(HYPERPARAMS))

    def hyperparams(point: int, _: Mapping[str, np.ndarray]) -> Hyperparams:
        row = rows[min(point, len(rows) - 1)]
        return stack_hyperparams([h._replace(**{n: columns[f"{HYPERPARAMS}{n}"][row, point] for n in names})] * width)

    return Schedule(hyperparams, names)


def lineage(parents: np.ndarray, row: int) -> list[int]:
    """Return the ancestors [P] of a run: the run that was trained up to each point.

    Args:
        parents: [R, P], the run that each run goes on from after a point.
        row: a run after the last point.
    """
    line = []
    for point in reversed(range(parents.shape[1])):
        row = int(parents[row, point])
        line.append(row)
    return line[::-1]


def best_run(returns: np.ndarray) -> int:
    """Return the run with the highest return at the last point, of returns [R, P]; NaN is the lowest.

    Its score comes from other episodes, so that it is not the luck of the episodes of the choice.
    """
    return int(np.argmax(np.nan_to_num(returns[:, -1], nan=-np.inf)))


def winner_of(name: str, piece: Piece) -> Winner:
    """Return the best run of a population."""
    row = best_run(piece.columns["return"])
    score = float(piece.score[row])
    return Winner(name, row, score if np.isfinite(score) else -np.inf)
