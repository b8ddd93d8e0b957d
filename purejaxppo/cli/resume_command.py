"""`purejaxppo resume`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from purejaxppo.cli.options import Argument, Interval, Settings
from purejaxppo.cli.render_command import check_renderer
from purejaxppo.cli.run_settings import find_settings, overlay, prepare_compilation, prepare_for, read_interval
from purejaxppo.cli.session import Limits, Start, run_session
from purejaxppo.cli.signals import abort_on_interrupt
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml, from_tables, parse_tables
from purejaxppo.training.run_folder import CONFIG_FILE, EVALUATIONS_FILE, METRICS_FILE, own_settings
from purejaxppo.training.run_lock import lock_run
from purejaxppo.training.runs import build

if TYPE_CHECKING:
    from purejaxppo.types import Algorithm


@dataclass(frozen=True)
class Resume:
    """Continue a run of `purejaxppo train` from its newest checkpoint, as if it had never stopped.

    A run that is complete is only evaluated again. Options change settings from here on: all hyperparameters,
    --total-timesteps, --num-devices, --microbatch-size and --evaluate-every. The checkpoints record every change.
    Other settings belong to the state of the run and cannot be changed.
    """

    run: Annotated[Path, Argument("RUN_DIR")]  # folder that `purejaxppo train` made
    updates: Annotated[int, Interval("[0, 2147483647]")] = 0  # updates to train before stopping; 0: to the end
    checkpoint_every: str = "auto"  # updates (500) or time (90s, 5m, 1h) between checkpoints; auto: a minute; off
    fast_flags: bool = False  # compiler passes that XLA leaves off; the numbers stay the same only with the same choice
    changes: Annotated[Mapping[str, Any], Settings] = field(default_factory=dict)  # tables of a TOML file


def run_resume(args: Resume, problems: Sequence[Problem], config: str = "", render: bool = False) -> int:
    """Check everything, load the newest checkpoint, and continue the run in its folder.

    Args:
        args: the options.
        problems: problems of the command line.
        config: the settings that the run is expected to have, an argument CONFIG of `train`; "": those of its folder.
        render: refuse an environment without a renderer.
    """
    interval, wrong = read_interval(args.checkpoint_every)
    problems = [*problems, *wrong]
    if not any(problem.key == "RUN_DIR" for problem in problems) and not args.run.is_dir():
        problems.append(Problem("RUN_DIR", f" {args.run}: {_no_folder(args.run)}", "file"))
    if problems:
        raise ConfigError(problems, "resume")
    with lock_run(args.run):
        with abort_on_interrupt():
            print(f"continuing {args.run}\nloading JAX", flush=True)
            run, algo, start = _prepare(args, config, render)
        prepare_compilation()
        return run_session(run, algo, args.run, start, Limits(interval, args.updates))


def _no_folder(path: Path) -> str:
    return "is a file, not a folder" if path.exists() else "no such folder"


def _prepare(args: Resume, config: str, render: bool) -> tuple[Run, Algorithm, Start]:
    """Return settings, algorithm and state to continue with.

    Raises:
        ConfigError: the settings cannot be used, or cannot be changed.
        CheckpointError: the folder holds no run, or its checkpoints cannot be used.
        UsageError: the environment has no renderer, and `render` asks for one.
    """
    from purejaxppo.training.conditions import changed_conditions
    from purejaxppo.training.memory import check_memory
    from purejaxppo.training.resume import load_run, open_run, settle
    from purejaxppo.training.selection import restore_best

    saved = open_run(args.run)
    for sentence in saved.warnings:
        _warn(sentence)
    done = saved.manifest.num_updates
    present, explicit = _lengthened(_present_settings(args, config, saved.run), args.updates, done)
    run, overrides = settle(saved, present, explicit | _dotted(args.changes))
    prepare_for(run, args.fast_flags)
    if render:
        check_renderer(run.env, run.env_params)
    algo = build(run, (), str(args.run))
    check_memory(run, algo)
    if changed := changed_conditions(saved.manifest):
        lines = "".join(f"\n  {line}" for line in changed)
        _warn(f"the last digits may differ from those of an uninterrupted run{lines}")
    state = load_run(saved, algo, run)
    standing = restore_best(args.run, algo, run, saved.standing, _warn)
    if standing.best != saved.standing.best:
        lost = f"the best policy, that of update {saved.standing.best}, is lost"
        _warn(f"{args.run}: {lost}; the next evaluation selects again")
    rows = _rows_kept(args.run / METRICS_FILE, saved.metrics_bytes)
    evaluations = _rows_kept(args.run / EVALUATIONS_FILE, standing.num_bytes)
    return run, algo, Start(done, state, rows, saved.seconds, overrides, standing, evaluations)


def _warn(text: str) -> None:
    print(f"purejaxppo: warning: {text}", file=sys.stderr, flush=True)


def _present_settings(args: Resume, config: str, saved: Run) -> Run:
    """Return the settings that the user has in mind: of CONFIG or else of the run folder, and of the options.

    Raises:
        ConfigError: with every problem.
    """
    if config:
        text, source = find_settings(config)
    else:
        text, source = own_settings(args.run) or dump_toml(saved), str(args.run / CONFIG_FILE)
    run, problems = from_tables(overlay(parse_tables(text, source), args.changes))
    if problems:
        raise ConfigError(problems, source)
    return run


def _dotted(changes: Mapping[str, Any]) -> set[str]:
    """Return the dotted names of the settings in some tables."""
    nested = {f"{table}.{name}" for table, values in changes.items() if isinstance(values, dict) for name in values}
    return nested | {name for name, value in changes.items() if not isinstance(value, dict)}


def _lengthened(run: Run, num_updates: int, done: int) -> tuple[Run, set[str]]:
    """Return the settings of a run that has room for `num_updates` more, and which of them changed.

    Raises:
        ConfigError: the learning rate reaches 0 before.
    """
    total, size = run.config.num_updates, run.config.timesteps_per_update
    if done + num_updates <= total:
        return run, set()
    needed = (done + num_updates) * size
    if run.hyperparams.lr_anneal:
        text = f" {num_updates}: {max(total - done, 0)} updates remain, after which the learning rate is 0; to lengthen"
        text += f" the run, pass --total-timesteps {needed}"
        raise ConfigError([Problem("--updates", text, "range")], "resume")
    return replace(run, config=replace(run.config, total_timesteps=needed)), {"config.total_timesteps"}


def _rows_kept(path: Path, num_bytes: int) -> int | None:
    """Return the length to which a CSV file is cut, or None if there is no such file; say if rows are missing."""
    size = path.stat().st_size if path.exists() else 0
    if size < num_bytes:
        _warn(f"{path}: rows of updates before the checkpoint are missing")
    return num_bytes if path.exists() else None
