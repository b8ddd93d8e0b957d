"""The numbers of a study: settings that were trained with several seeds, ranked and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from purejaxppo.analysis.statistics import (
    FEW_SEEDS_NOTE,
    Interval,
    Spread,
    failed_as_worst,
    interquartile_mean,
    probability_of_improvement,
    spread,
    stratified_interval,
    too_few,
)


class Arm(NamedTuple):
    """One setting on one task, with all of its seeds."""

    label: str
    task: str  # the environment
    seeds: tuple[int, ...]
    scores: np.ndarray  # [S]; NaN: the run failed, or was stopped before its end
    timesteps: np.ndarray  # [P] environment steps of the points of the curves
    curves: np.ndarray  # [S, P] returns; NaN after a failure
    areas: np.ndarray  # [S] areas under the curves
    status: tuple[str, ...]  # per seed: finished, stopped or failed
    hyperparams: Mapping[str, float] = {}  # those that vary in the study, and env_params.NAME
    is_test: bool = False  # trained with fresh seeds after the selection


class Generalization(NamedTuple):
    """Scores of the policies of one setting at values of an environment parameter."""

    label: str
    task: str
    parameter: str
    values: np.ndarray  # [V] ascending
    scores: np.ndarray  # [S, V]; NaN: the run failed
    trained: float | None  # value of the training; None: the default of the environment, which is not known
    trained_high: float | None = None  # high end of the interval that every episode of the training drew its value from

    @property
    def filled_scores(self) -> np.ndarray:
        """Return the scores [S, V] with those of failed runs replaced by the lowest score at the same value."""
        return np.stack([failed_as_worst(column) for column in self.scores.T], axis=1)


class Study(NamedTuple):
    """Everything a report is made of."""

    title: str
    arms: tuple[Arm, ...]
    facts: Mapping[str, str]  # what a reviewer asks for, by name
    score: str = "greedy evaluation after training"  # what the scores are
    generalization: tuple[Generalization, ...] = ()


class Ranked(NamedTuple):
    """One line of the ranked table."""

    arm: Arm
    interval: Interval  # of the interquartile mean
    spread: Spread
    scores: np.ndarray  # [S], failed runs counted as the worst of the task
    improvement: Interval  # probability that a run of the best arm scores higher


def tasks(study: Study) -> list[str]:
    """Return the tasks in their order."""
    return list(dict.fromkeys(arm.task for arm in study.arms))


def rank(study: Study, task: str, is_test: bool = False) -> list[Ranked]:
    """Return the arms of a task that reached the end, best first; failed runs count as the worst run of the task."""
    arms = [arm for arm in study.arms if arm.task == task and arm.is_test == is_test]
    finished = [arm for arm in arms if "stopped" not in arm.status]
    everything = np.concatenate([arm.scores for arm in finished]) if finished else np.zeros(0)
    filled = [failed_as_worst(arm.scores, everything) for arm in finished]
    level = [
        (interquartile_mean(x), interquartile_mean(np.nan_to_num(arm.areas, nan=-np.inf)))
        for arm, x in zip(finished, filled, strict=True)
    ]
    order = sorted(range(len(finished)), key=lambda i: tuple(-np.nan_to_num(x, nan=-np.inf) for x in level[i]))
    return [
        Ranked(
            finished[i],
            stratified_interval(filled[i]),
            spread(filled[i]),
            filled[i],
            probability_of_improvement(filled[order[0]], filled[i]),
        )
        for i in order
    ]


def notes(study: Study) -> list[str]:
    """Return what a reader has to know about the numbers."""
    found = []
    if too_few([len(arm.seeds) for arm in study.arms]):
        found.append(FEW_SEEDS_NOTE)
    failed = sum(arm.status.count("failed") for arm in study.arms)
    if failed:
        found.append(f"{failed} run(s) failed; each counts as the worst run of its task")
    stopped = sum("stopped" in arm.status for arm in study.arms)
    if stopped:
        found.append(f"{stopped} setting(s) were stopped early and are not ranked")
    return found


def varied(arms: Sequence[Arm]) -> list[str]:
    """Return the hyperparameters that take several values."""
    names = dict.fromkeys(name for arm in arms for name in arm.hyperparams)
    return [name for name in names if len({arm.hyperparams.get(name) for arm in arms}) > 1]


def filled_curves(arm: Arm) -> np.ndarray:
    """Return the curves [S, P] with the part after a failure at the lowest return of the arm."""
    return failed_as_worst(arm.curves)


def by_parameter(study: Study, task: str) -> dict[str, list[Generalization]]:
    """Return the scores of a task at values of environment parameters, by parameter."""
    found: dict[str, list[Generalization]] = {}
    for line in study.generalization:
        if line.task == task:
            found.setdefault(line.parameter, []).append(line)
    return found


def table_rows(ranked: Sequence[Ranked]) -> list[dict[str, str]]:
    """Return the ranked table: a dict per line, with texts."""
    rows = []
    for place, r in enumerate(ranked, start=1):
        few = "*" if too_few([len(r.arm.seeds)]) else ""
        rows.append(
            {
                "rank": str(place),
                "setting": r.arm.label,
                "seeds": f"{len(r.arm.seeds)}{few}",
                "IQM": number(r.interval.value),
                "95 % interval": f"[{number(r.interval.low)}, {number(r.interval.high)}]{few}",
                "worst": number(r.spread.worst),
                "10-90 %": f"{number(r.spread.p10)} to {number(r.spread.p90)}",
                "area": number(interquartile_mean(failed_as_worst(r.arm.areas))),
                "P(best > this)": ""
                if place == 1
                else f"{r.improvement.value:.2f} [{r.improvement.low:.2f}, {r.improvement.high:.2f}]",
                "failed": str(r.arm.status.count("failed")),
            }
        )
    return rows


def generalization_table(lines: Sequence[Generalization]) -> list[dict[str, str]]:
    """Return the table of scores at the value of the training and at the other values, a dict per line, with texts."""
    rows = []
    for line in lines:
        shown = {"setting": line.label, "trained with": _shown_training(line)}
        same = line.values == line.trained
        if line.trained is not None and line.trained_high is not None:
            same = (line.values >= line.trained) & (line.values <= line.trained_high)
        for name, chosen in (("IQM at this value", same), ("IQM at other values", ~same)):
            shown[name] = _mean_text(line.filled_scores[:, chosen]) if line.trained is not None and chosen.any() else ""
        rows.append(shown)
    return rows


def _shown_training(line: Generalization) -> str:
    """Write the value, or the interval, of the training."""
    if line.trained is None:
        return "unknown"
    high = "" if line.trained_high is None else f" to {number(line.trained_high)}"
    return f"{number(line.trained)}{high}"


def _mean_text(scores: np.ndarray) -> str:
    """Write the interval of the interquartile mean of the means of scores [S, V] over the values."""
    interval = stratified_interval(scores.mean(1))
    return f"{number(interval.value)} [{number(interval.low)}, {number(interval.high)}]"


def number(x: float) -> str:
    """Write a score with four digits."""
    return f"{x:.4g}" if abs(x) < 10_000 else f"{x:.0f}"
