"""Read results folders, of sweeps and of plain runs, as a study for the report."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from purejaxppo._util.aliases import Tables, Value
from purejaxppo._util.text import duration, hide_password, short
from purejaxppo.analysis.curves import learning_curve
from purejaxppo.analysis.statistics import area_under_curve
from purejaxppo.analysis.study import Arm, Generalization, Study
from purejaxppo.config.errors import ConfigError, Problem, UsageError
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.config.toml import load_toml
from purejaxppo.sweeps.generalization import FILE as GENERALIZATION
from purejaxppo.sweeps.optuna_study import shown_study
from purejaxppo.sweeps.populations import best_run, lineage
from purejaxppo.sweeps.spec import Sweep, show_change
from purejaxppo.sweeps.store import SWEEP_FILE, read_sweep
from purejaxppo.sweeps.table import TABLE, TRIALS, Row, filled, read_table
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training.run_folder import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE

GRID = 50  # points of the curves of plain runs


def is_sweep_folder(folder: Path) -> bool:
    """Return whether a folder holds a sweep."""
    return (folder / SWEEP_FILE).is_file()


def folder_problems(folders: Sequence[Path], key: str) -> list[Problem]:
    """Return a problem for each folder that holds neither a sweep nor a run, or an unfinished sweep."""
    problems = []
    for folder in folders:
        if is_sweep_folder(folder):
            if not (folder / f"{TRIALS}.csv").is_file():
                text = f": is not finished; `purejaxppo sweep --resume {folder}` goes on with it"
                problems.append(Problem(str(folder), text, "file"))
        elif not (folder / CONFIG_FILE).is_file() or not (folder / METRICS_FILE).is_file():
            text = f": no results folder of `purejaxppo sweep` or `purejaxppo train` ({key})"
            problems.append(Problem(str(folder), text, "file"))
    return problems


def read_study(folders: Sequence[Path], title: str = "") -> Study:
    """Return the study of some folders: the settings of every sweep, and plain runs grouped by their settings.

    Raises:
        ConfigError: a folder has no results.
    """
    problems = folder_problems(folders, "DIR")
    if problems:
        raise ConfigError(problems, "report")
    arms: list[Arm] = []
    general: list[Generalization] = []
    facts: dict[str, str] = {}
    sweeps = [folder for folder in folders if is_sweep_folder(folder)]
    score = "greedy evaluation"
    for folder in sweeps:
        prefix = f"{folder.name}: " if len(folders) > 1 else ""
        own, own_facts, score = _read_sweep_folder(folder, prefix)
        arms += own
        general += _read_generalization(folder, prefix)
        facts |= {f"{prefix}{name}": text for name, text in own_facts.items()}
    runs = [folder for folder in folders if not is_sweep_folder(folder)]
    if runs:
        own, own_facts = _read_runs(runs)
        arms += own
        facts |= own_facts
    return Study(title or ", ".join(folder.name for folder in folders[:4]), tuple(arms), facts, score, tuple(general))


# ---- sweeps


def _read_sweep_folder(folder: Path, prefix: str) -> tuple[list[Arm], dict[str, str], str]:
    sweep, about = read_sweep(folder)
    table, trials = read_table(folder / f"{TABLE}.csv"), read_table(folder / f"{TRIALS}.csv")
    points: dict[float, list[Row]] = {}
    for row in table:
        points.setdefault(row["trial"], []).append(row)
    groups: dict[tuple[str, float], list[Row]] = {}
    is_population = sweep.options.method == "population"
    for trial in trials:
        key = trial["label"] if is_population else trial["setting"]
        groups.setdefault((trial["part"], key), []).append(trial)
    area = sweep.options.score == "area"
    arms = [
        _arm_of_populations(members, points, prefix)
        if is_population and part == "selection"
        else _arm_of(members, points, prefix, part == "test", area)
        for (part, _), members in groups.items()
    ]
    kind = "greedy" if sweep.options.greedy else "sampled"
    score = "area under the learning curve" if area else f"{kind} evaluation, {sweep.options.episodes} episodes"
    return arms, _facts_of(sweep, about, trials), score


def _read_generalization(folder: Path, prefix: str) -> list[Generalization]:
    """Return a line for each setting that was evaluated at other values of an environment parameter."""
    file = folder / f"{GENERALIZATION}.csv"
    rows = read_table(file) if file.is_file() else []
    # The best runs of populations differ in their setting, which is their start.
    key = "label" if read_sweep(folder)[0].options.method == "population" else "setting"
    found = []
    for setting in dict.fromkeys(row[key] for row in rows):
        own = [row for row in rows if row[key] == setting]
        values = np.array(sorted({row["value"] for row in own}), np.float64)
        seeds = list(dict.fromkeys(row["seed"] for row in own))
        scores = np.full((len(seeds), len(values)), np.nan)
        for row in own:
            scores[seeds.index(row["seed"]), int(np.searchsorted(values, row["value"]))] = row["score"]
        label, env, parameter, trained = (own[0][name] for name in ("label", "env", "parameter", "trained"))
        ends = [x if isinstance(x, float) else None for x in (trained, own[0].get("trained_high"))]
        found.append(Generalization(f"{prefix}{label}", env, parameter, values, scores, *ends))
    return found


def _arm_of(
    members: Sequence[Row], points: Mapping[float, Sequence[Row]], prefix: str, is_test: bool, area: bool
) -> Arm:
    """Return the arm of the trials of one setting."""
    first = members[0]
    own = [points[member["trial"]] for member in members]
    levels = [name for name in first if name.startswith("env_params.")]
    names = [name for name in (*Hyperparams._fields, *levels) if isinstance(first.get(name), float)]
    return Arm(
        label=f"{prefix}{first['label']}",
        task=str(first["env"]),
        seeds=tuple(int(member["seed"]) for member in members),
        scores=np.array([member["area" if area else "score"] for member in members], np.float64),
        timesteps=np.array([row["timesteps"] for row in own[0]], np.float64),
        curves=np.stack([_curve(rows) for rows in own]),
        areas=np.array([member["area"] for member in members], np.float64),
        status=tuple(str(member["status"]) for member in members),
        hyperparams={name: first[name] for name in names},
        is_test=is_test,
    )


def _arm_of_populations(members: Sequence[Row], points: Mapping[float, Sequence[Row]], prefix: str) -> Arm:
    """Return the arm of populations: the winner of each, with the returns of the runs that led to it."""
    arms = []
    for seed in dict.fromkeys(member["seed"] for member in members):
        runs = [member for member in members if member["seed"] == seed]
        rows = [points[run["trial"]] for run in runs]
        returns = np.array([[row["return"] for row in own] for own in rows], np.float64)
        parents = np.array([[row["parent"] for row in own] for own in rows], np.float64)
        winner = best_run(returns)
        line = lineage(parents, winner)
        led = [rows[run][point] for point, run in enumerate(line)]
        arm = _arm_of([runs[winner]], {runs[winner]["trial"]: led}, prefix, False, False)
        own_area = np.asarray(area_under_curve(arm.timesteps, arm.curves))
        arms.append(arm._replace(areas=own_area, hyperparams={}))
    joined = {name: np.concatenate([getattr(arm, name) for arm in arms]) for name in ("scores", "curves", "areas")}
    seeds, status = (tuple(getattr(arm, name)[0] for arm in arms) for name in ("seeds", "status"))
    return arms[0]._replace(seeds=seeds, status=status, **joined)


def _curve(rows: Sequence[Row]) -> np.ndarray:
    """Return a curve without gaps, but with NaN from a failure on."""
    curve = np.array([row["return"] for row in rows], np.float64)
    failed = np.isnan(np.array([row["kl"] for row in rows], np.float64))
    return np.where(failed, np.nan, filled(curve))


def _facts_of(sweep: Sweep, about: Tables, trials: Sequence[Row]) -> dict[str, str]:
    """Return what a reviewer asks for."""
    options = sweep.options
    steps = sum(trial["timesteps"] for trial in trials)
    selection = f"{sweep.seeds[0]} to {sweep.seeds[-1]} ({len(sweep.seeds)})"
    test = f"{sweep.test_seeds[0]} to {sweep.test_seeds[-1]} ({len(sweep.test_seeds)})" if sweep.test_seeds else "none"
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    statuses = [trial["status"] for trial in trials]
    return {
        "search space": "; ".join(sweep.space) or ", ".join(sweep.labels),
        "search": _shown_search(sweep),
        "budget": f"{len(trials)} runs, {short(steps)} environment steps in all, "
        f"{short(max(trial['timesteps'] for trial in trials))} per run",
        "seeds of the selection": selection,
        "seeds of the test": test,
        "runs": ", ".join(f"{statuses.count(s)} {s}" for s in ("finished", "stopped", "failed") if s in statuses),
        "score": f"{'greedy' if options.greedy else 'sampled'} actions, {options.episodes} episodes after training"
        if options.score == "final"
        else "area under the learning curve, sampled actions",
        "learning curves": "returns of training episodes, sampled actions",
        "comparison": "settings are compared as independent samples (unpaired)",
        "time": f"{duration(float(about.get('seconds', math.nan)))} (minutes:seconds), compilation included",
        "device": f"{about.get('platform', '')} ({about.get('device', '')})",
        "versions": versions,
        "command": hide_password(str(about.get("command", ""))),
    }


def _shown_search(sweep: Sweep) -> str:
    """Return how the settings were chosen."""
    options = sweep.options
    if options.method == "population":
        count = int(options.share * options.num_settings)
        return (
            f"population of {options.num_settings} runs for each seed; after each point the worst {count} copy one of "
            f"the best {count}. The score is that of the run with the highest return at the end; the test repeats its "
            "schedule of hyperparameters"
        )
    if options.method == "optuna":
        where = shown_study(dataclasses.asdict(options))
        return f"optuna, {len(sweep.settings)} settings in batches of {options.batch}, {where}"
    return f"{options.method}, {len(sweep.settings)} settings, {options.halvings} halvings"


# ---- plain runs


def _read_runs(folders: Sequence[Path]) -> tuple[list[Arm], dict[str, str]]:
    """Return an arm for every group of runs that differ in their seed only."""
    runs = {folder: load_toml(folder / CONFIG_FILE) for folder in folders}
    groups: dict[str, list[Path]] = {}
    for folder, run in runs.items():
        groups.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append(folder)
    every = [_settings(runs[members[0]]) for members in groups.values()]
    names = [key for key in every[0] if len({json.dumps(s.get(key), default=str) for s in every}) > 1]
    arms = []
    for members, settings in zip(groups.values(), every, strict=True):
        changes = [show_change(key, _plain(settings[key])) for key in names if key != "env"]
        arms.append(_arm_of_runs(members, runs, ", ".join(changes) or members[0].name, names))
    summaries = [_summary(folder) for folder in folders]
    facts = {
        "plain runs": ", ".join(str(folder) for folder in folders),
        "score": "mean of the greedy evaluation after training",
        "learning curves": "returns of training episodes, sampled actions",
        "device": ", ".join(sorted({str(summary.get("device", "unknown")) for summary in summaries})),
        "versions": "; ".join(
            sorted({", ".join(f"{k} {v}" for k, v in summary.get("versions", {}).items()) for summary in summaries})
        ),
    }
    return arms, facts


def _settings(run: Run) -> dict[str, Value]:
    """Return all settings but the seed by dotted key."""
    found: dict[str, Value] = {"env": run.env}
    found |= {f"env_params.{name}": value for name, value in run.env_params.items()}
    for name in ("config", "network"):
        found |= {f"{name}.{key}": value for key, value in vars(getattr(run, name)).items()}
    return found | {f"hyperparams.{key}": value for key, value in run.hyperparams._asdict().items()}


def _plain(value: Value) -> Value:
    return list(value) if isinstance(value, tuple) else value


def _summary(folder: Path) -> dict[str, Value]:
    try:
        return tomllib.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _arm_of_runs(members: Sequence[Path], runs: Mapping[Path, Run], label: str, names: Sequence[str]) -> Arm:
    curves = [learning_curve(read_csv(folder / METRICS_FILE)) for folder in members]
    empty = [folder for folder, curve in zip(members, curves, strict=True) if not len(curve["timesteps"])]
    if empty:
        raise UsageError(f"{empty[0]}: no episode finished in this run, so there is nothing to compare")
    end = min(curve["timesteps"][-1] for curve in curves)
    steps = np.linspace(end / GRID, end, GRID)
    heights = np.stack([np.interp(steps, curve["timesteps"], curve["mean"]) for curve in curves])
    summaries = [_summary(folder) for folder in members]
    scores = [summary.get("evaluation", {}).get("greedy", {}).get("mean", math.nan) for summary in summaries]
    status = ["finished" if summary.get("status") == "finished" else "failed" for summary in summaries]
    run = runs[members[0]]
    numbers = {
        key.removeprefix("hyperparams."): float(getattr(run.hyperparams, key.removeprefix("hyperparams.")))
        for key in names
        if key.startswith("hyperparams.")
    }
    return Arm(
        label,
        run.env,
        tuple(runs[folder].seed for folder in members),
        np.array(scores, np.float64),
        steps,
        heights,
        np.asarray(area_under_curve(steps, heights)),
        tuple(status),
        numbers,
    )
