"""Evaluate trained policies at other values of an environment parameter than those they were trained with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import PyTree, Value
from purejaxppo.analysis.statistics import failed_as_worst, interquartile_mean
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Run
from purejaxppo.config.values import is_number
from purejaxppo.envs.randomization import is_interval
from purejaxppo.sweeps import store
from purejaxppo.sweeps.axes import SAMPLED, Axis, grid_values
from purejaxppo.sweeps.engine import Engine, stack_env_params
from purejaxppo.sweeps.populations import winner_of
from purejaxppo.sweeps.runner import Group, Runner, Trial
from purejaxppo.sweeps.table import Row
from purejaxppo.training.policy_file import Policy
from purejaxppo.training.runs import build

FILE = "generalization"  # .csv, one row per policy and value


def with_parameter(run: Run, key: str, value: Value) -> Run:
    """Return settings with another value of an environment parameter, such as env_params.gravity."""
    return dataclasses.replace(run, env_params={**run.env_params, key.partition(".")[2]: value})


def generalization_rows(runner: Runner, axis: Axis, say: Callable[[str], None] = print) -> list[Row]:
    """Return the scores of the best settings, with all of their seeds, at every value of a parameter.

    Every program has a best setting; if the axes list values of a traced parameter, every value has one.

    Args:
        runner: of a finished sweep whose folder still holds the states.
        axis: the parameter and its values.
        say: receives a line for each program.

    Raises:
        UsageError: a piece of the folder is damaged.
    """
    rows: list[Row] = []
    for group in runner.groups:
        for settings in _by_level(runner, group):
            trials = _best_trials(runner, group._replace(settings=settings))
            if trials:
                label = runner.sweep.labels[trials[0][0]]
                say(f"{label}: evaluation at {len(grid_values(axis))} values of {axis.key}")
                rows += _rows_of_trials(runner, group, trials, axis)
    return rows


def _by_level(runner: Runner, group: Group) -> list[tuple[int, ...]]:
    """Return the settings of a program by the values of traced parameters; together if the values were sampled."""
    sweep = runner.sweep
    if sweep.options.method in SAMPLED:
        return [group.settings]
    found: dict[tuple[Value, ...], list[int]] = {}
    for setting in group.settings:
        found.setdefault(tuple(sweep.settings[setting].get(key) for key in sweep.traced), []).append(setting)
    return [tuple(settings) for settings in found.values()]


def _best_trials(runner: Runner, group: Group) -> list[Trial]:
    """Return the trials of the best of a group's settings, one per seed; of populations, the best run of each."""
    seeds, task = runner.sweep.seeds, group.run.env
    if runner.sweep.options.method == "population":
        return _best_population(runner, group)
    settings = [s for other in runner.groups if other.run.env == task for s in other.settings]
    known = [s for s in settings if all((s, seed) in runner.places for seed in seeds)]
    finished = [s for s in known if all(_has_policy(runner, (s, seed)) for seed in seeds)]
    ranked = [s for s in runner.ranked(finished).get(task, []) if s in group.settings]
    return [(ranked[0], seed) for seed in seeds] if ranked else []


def _best_population(runner: Runner, group: Group) -> list[Trial]:
    """Return the best run of every seed of the setting of a program whose best runs have the highest score."""
    firsts = group.settings[:: runner.sweep.options.num_settings]
    names = [[runner.places[first, seed][0] for seed in runner.sweep.seeds] for first in firsts]
    winners = [[winner_of(name, runner.results[name]) for name in own] for own in names]
    scores = np.array([[w.score if math.isfinite(w.score) else math.nan for w in own] for own in winners])
    level = [interquartile_mean(own) for own in failed_as_worst(scores)]
    best = winners[int(np.argmax(np.nan_to_num(level, nan=-np.inf)))]
    return [runner.results[w.name].trials[w.row] for w in best]


def _has_policy(runner: Runner, trial: Trial) -> bool:
    """Return whether a trial was evaluated at its end; one that halving stopped was not."""
    name, row = runner.places[trial]
    piece = runner.results[name]
    return bool(piece.failed[row]) or math.isfinite(piece.score[row])


def _rows_of_trials(runner: Runner, group: Group, trials: Sequence[Trial], axis: Axis) -> list[Row]:
    """Return the rows of some trials of a program, value by value; the value of the training comes last.

    The score there is that of the trial, unless the axis has the value too.
    """
    name, engine, rows = axis.key.partition(".")[2], runner.engines[group.index], []
    pieces = {place: store.read_whole_piece(runner.folder, place) for place in {runner.places[t][0] for t in trials}}
    found = [(pieces[place], row) for place, row in (runner.places[trial] for trial in trials)]
    policies = [runner.policy(piece, row) for piece, row in found]
    run = runner.sweep.run(*trials[0])
    scores: dict[Value, np.ndarray] = {}
    for value in grid_values(axis):
        changed = with_parameter(run, axis.key, value)
        there = engine if axis.key in runner.sweep.traced else engine._replace(algo=build(changed))
        levels = stack_env_params(there.algo, [changed] * engine.width)
        scores[value] = _scores(there, policies, [seed for _, seed in trials], levels)
    trained = run.env_params.get(name, "")
    if is_number(trained):
        scores.setdefault(trained, np.array([piece.score[row] for piece, row in found]))
    for value, own in scores.items():
        for (setting, seed), (piece, row), score in zip(trials, found, own, strict=True):
            place = {"setting": setting, "label": runner.sweep.labels[setting], "env": run.env, "seed": seed}
            place |= {"parameter": name, "value": value, **_training(trained)}
            rows.append(place | {"score": math.nan if piece.failed[row] else float(score)})
    return rows


def _training(value: Value) -> Row:
    """Return the columns of the value of the training, or of the ends of the interval that episodes drew it from."""
    if not is_interval(value):
        return {"trained": value}
    return {"trained": value["low"], "trained_high": value["high"]}


def _scores(engine: Engine, policies: Sequence[Policy], seeds: Sequence[int], env_params: PyTree = None) -> np.ndarray:
    """Return the mean return of each policy, [S], in calls of the engine's width.

    Args:
        engine: of the program.
        policies: one per run.
        seeds: of the runs.
        env_params: parameters of the environments, leaves [width, ...]; None for the default ones.
    """
    width, scores = engine.width, []
    for first in range(0, len(seeds), width):
        chunk = [*range(first, min(first + width, len(seeds)))]
        padded = [*chunk, *[chunk[-1]] * (width - len(chunk))]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[policies[i] for i in padded])
        scores.append(engine.play(stacked, [seeds[i] for i in padded], env_params).mean(1)[: len(chunk)])
    return np.concatenate(scores)


def check_parameter(axis: Axis, run: Run) -> list[Problem]:
    """Return the problem of the first value with which the environment cannot be made."""
    for value in grid_values(axis):
        try:
            build(with_parameter(run, axis.key, value))
        except ConfigError as error:
            return [Problem(f"generalization.{axis.key}", problem.text, problem.kind) for problem in error.problems][:1]
    return []
