"""A whole sweep: check everything, choose the execution, run, write the tables."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from purejaxppo._util.aliases import Value
from purejaxppo._util.files import write_atomic
from purejaxppo.config.checks import ignored_settings
from purejaxppo.config.errors import ConfigError, Problem, UsageError
from purejaxppo.config.schema import RECURRENT_KINDS, Run
from purejaxppo.config.toml import dump_toml, from_tables
from purejaxppo.networks.policy_heads import num_means
from purejaxppo.sweeps import store
from purejaxppo.sweeps.engine import Engine
from purejaxppo.sweeps.execution import Execution, choose_execution
from purejaxppo.sweeps.generalization import FILE as GENERALIZATION
from purejaxppo.sweeps.generalization import check_parameter, generalization_rows
from purejaxppo.sweeps.levels import level_problems
from purejaxppo.sweeps.methods import run_method
from purejaxppo.sweeps.optuna_study import check_storage
from purejaxppo.sweeps.populations import repeated_schedule
from purejaxppo.sweeps.runner import HYPERPARAMS, SAVE_SECONDS, Group, Runner, Schedule, group_settings, segment_of
from purejaxppo.sweeps.spec import Sweep, is_numeric, with_changes
from purejaxppo.sweeps.table import TABLE, TRIALS, read_table, trial_rows, write_tables
from purejaxppo.training.manifest import library_versions
from purejaxppo.training.run_lock import lock_run
from purejaxppo.training.runs import build
from purejaxppo.types import Algorithm


def check_sweep(sweep: Sweep, problems: Sequence[Problem] = (), source: str = "sweep") -> list[Group]:
    """Return the groups of a sweep after all checks. Nothing is compiled yet.

    Args:
        sweep: the specification.
        problems: problems that are already known; they are reported with the others.
        source: where the sweep comes from, for the message.

    Raises:
        ConfigError: with every problem at once, those of every group's environment and network included.
    """
    found, groups = list(problems), []
    if found:  # the settings are not complete
        raise ConfigError([*found, *_base_problems(sweep, found)], source)
    for index, settings in enumerate(group_settings(sweep)):
        tables = with_changes(sweep.base, sweep.settings[settings[0]])
        run, known = from_tables(tables)
        levels = level_problems(sweep, settings, run)
        if levels:
            found += [problem for problem in levels if problem not in found]
            continue
        try:
            algo = build(run, known)
        except ConfigError as error:
            new = [problem for problem in error.problems if problem not in found]
            found += new
            continue
        new = [*_axis_problems(sweep, settings, run, algo)]
        for axis in sweep.generalization:
            new += check_parameter(axis, run)
        found += [problem for problem in new if problem not in found]
        groups.append(Group(index, settings, run, algo))
    if found:
        raise ConfigError(found, source)
    return groups


def _base_problems(sweep: Sweep, known: Sequence[Problem]) -> list[Problem]:
    """Return the problems of the base settings that are not known yet."""
    keys = {problem.key for problem in known}
    return [problem for problem in from_tables(sweep.base)[1] if problem.key not in keys]


def _axis_problems(sweep: Sweep, settings: Sequence[int], run: Run, algo: Algorithm) -> list[Problem]:
    """Return a problem for each hyperparameter that varies in a group and cannot change its results."""
    continuous = num_means(algo.env.action_space) > 0
    recurrent = run.network.kind in RECURRENT_KINDS
    ignored = ignored_settings(run.config, run.network, recurrent=recurrent, continuous=continuous)
    varied = {axis.key for axis in sweep.axes if len(axis.values) != 1} | {
        key
        for key in {key for s in settings for key in sweep.settings[s] if is_numeric(key)}
        if len({sweep.settings[s].get(key) for s in settings}) > 1
    }
    return [
        Problem(key, f": all its values give the same result; it {ignored[key]}", "conflict")
        for key in sorted(varied & ignored.keys())
    ]


def start_sweep(
    sweep: Sweep,
    groups: Sequence[Group],
    folder: Path,
    lanes: int | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
    **options: Value,
) -> None:
    """Run a sweep in a new folder; for the options see `_run`.

    Raises:
        ConfigError: the folder is not new or empty, or the runs do not fit memory.
    """
    if (folder / store.SWEEP_FILE).exists():
        store.create_folder(folder, sweep, {})  # says what the folder is
    if sweep.options.method == "optuna":
        check_storage(sweep.options.storage)
    about = {"command": command, "fingerprint": sweep.fingerprint, "executions": [], **_platform()}
    about["identity"] = uuid.uuid4().hex
    executions = [_execution(sweep, group, lanes, say) for group in groups]
    about["executions"] = [execution._asdict() for execution in executions]
    store.create_folder(folder, sweep, about)
    has_values = sweep.options.method != "optuna"  # Optuna chooses them batch by batch
    for i in range(len(sweep.settings) if has_values else 0):
        write_atomic(folder / store.SETTINGS / f"{i}.toml", dump_toml(sweep.run(i, sweep.seeds[0])))
    _run(folder, sweep, about, groups, say, **options)


def resume_sweep(folder: Path, say: Callable[[str], None] = print, **options: Value) -> None:
    """Go on with the sweep of a folder; for the options see `_run`.

    Raises:
        UsageError: the folder has no sweep.
    """
    sweep, about = store.read_plan(folder)
    groups = check_sweep(sweep, source=str(folder))
    _run(folder, sweep, about, groups, say, **options)


def _execution(sweep: Sweep, group: Group, lanes: int | None, say: Callable[[str], None]) -> Execution:
    options, config = sweep.options, group.run.config
    engine = Engine(group.algo, 1, 1, segment_of(group.run, options.points), options.episodes, options.greedy)
    num_runs = at_once = len(group.settings) * options.seeds
    if options.method == "optuna":
        at_once = -(-num_runs * min(options.batch, options.num_settings) // options.num_settings)
    if options.method == "population":
        at_once = options.num_settings
    execution = choose_execution(engine, num_runs, config.num_updates, lanes, say, at_once)
    if config.num_devices > 1:  # the devices share each run
        execution = execution._replace(num_devices=1)
    memory = execution.bytes_per_run * execution.lanes * execution.num_devices
    say(
        f"{group.run.env}: {num_runs} runs, {execution.lanes} side by side on each of {execution.num_devices} "
        f"device(s), forecast {memory / 1e6:.0f} MB"
    )
    return execution


def _run(
    folder: Path,
    sweep: Sweep,
    about: dict[str, Value],
    groups: Sequence[Group],
    say: Callable[[str], None],
    save_seconds: float = SAVE_SECONDS,
    parquet: bool = False,
) -> None:
    """Run what is missing and write the tables.

    Args:
        folder: the results folder.
        sweep: the specification.
        about: what is known of the sweep beside it.
        groups: of `check_sweep`.
        say: receives lines for the user.
        save_seconds: between two saves of the piece that runs.
        parquet: also write the tables as Parquet.
    """
    executions = [Execution(**given) for given in about["executions"]]
    with lock_run(folder):
        started = time.monotonic()
        runner = Runner(folder, sweep, groups, executions, say, save_seconds)
        winners = run_method(runner, about.get("identity", ""))
        table, trials, places = trial_rows(runner.sweep, runner.pieces())
        write_tables(folder, {TABLE: table, TRIALS: trials}, parquet)
        for axis in sweep.generalization:
            if not about.get("finished"):
                write_tables(folder, {GENERALIZATION: generalization_rows(runner, axis, say)}, parquet)
        ranked = sorted(range(len(trials)), key=lambda i: -np.nan_to_num(trials[i]["score"], nan=-np.inf))
        keep = len(trials) if sweep.options.keep < 0 else sweep.options.keep
        finished = [i for i in ranked if trials[i]["status"] == "finished"][:keep]
        if not about.get("finished"):
            runner.keep_policies([(*places[i], int(trials[i]["trial"])) for i in finished])
        spent = time.monotonic() - started
        about["seconds"] = about.get("seconds", 0.0) + spent
        about |= {"winners": {task: list(w) for task, w in winners.items()}, "finished": True}
        store.write_about(folder, sweep, about)
        runner.drop_states()


def rerun_trial(folder: Path, number: int, say: Callable[[str], None] = print) -> bool:
    """Train one trial of a finished sweep again, alone, and print its rows beside those of the table.

    Returns:
        Whether all numbers agree to 1e-5.

    Raises:
        UsageError: there is no such trial.
    """
    sweep, about = store.read_sweep(folder)
    trials = read_table(folder / f"{TRIALS}.csv")
    if not 0 <= number < len(trials):
        raise UsageError(f"--trial {number}: no such trial; {folder} has 0 to {len(trials) - 1}")
    row = trials[number]
    setting, seed = int(row["setting"]), int(row["seed"])
    if sweep.options.method == "population" and row["part"] != "test":
        raise UsageError(f"--trial {number}: is part of a population and copies other runs; a trial of the test is not")
    groups = check_sweep(sweep, source=str(folder))
    executions = [Execution(**given)._replace(num_devices=1) for given in about["executions"]]
    runner = Runner(folder, sweep, groups, executions, say)
    piece = runner.run_alone((setting, seed), _kept_schedule(runner, (setting, seed)))
    kept = [entry for entry in read_table(folder / f"{TABLE}.csv") if entry["trial"] == number]
    returns = piece.columns["return"][0][: len(kept)]
    before = np.array([entry["return"] for entry in kept], np.float64)
    for entry, now in zip(kept, returns, strict=True):
        say(f"{int(entry['timesteps']):>12,} env steps  return {entry['return']:.7g} in the table, {now:.7g} alone")
    equal = bool(np.allclose(before, returns, rtol=1e-5, atol=1e-5, equal_nan=True))
    if isinstance(row["score"], float) and np.isfinite(row["score"]):
        say(f"score {row['score']:.7g} in the table, {piece.score[0]:.7g} alone")
        equal &= bool(np.isclose(row["score"], piece.score[0], rtol=1e-5, atol=1e-5))
    return equal


def _kept_schedule(runner: Runner, trial: tuple[int, int]) -> Schedule | None:
    """Return the schedule of a trial of the test that repeats that of a population; None if it has none."""
    for name, piece in runner.pieces().items():
        if (
            name.startswith("test")
            and trial in piece.trials
            and any(key.startswith(HYPERPARAMS) for key in piece.columns)
        ):
            width, row, h = runner.width(trial[0]), piece.trials.index(trial), runner.sweep.run(trial[0]).hyperparams
            return repeated_schedule(piece.columns, [row], h, width)
    return None


def _platform() -> dict[str, Value]:
    device = jax.devices()[0]
    versions = {"python": ".".join(map(str, sys.version_info[:3])), **library_versions()}
    return {"device": device.device_kind, "platform": device.platform, "versions": versions}
