"""`purejaxppo sweep`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.options import Argument, Interval, Settings
from purejaxppo.cli.parser import read_literal, read_value
from purejaxppo.cli.train_command import find_settings
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.shipped import shipped_sweeps
from purejaxppo.config.toml import from_tables, parse_tables
from purejaxppo.config.values import is_number
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.run_folder import folder_problems

if TYPE_CHECKING:
    from purejaxppo._util.aliases import Tables, Value


@dataclass(frozen=True)
class SweepCommand:
    """Train many settings with many seeds side by side, and report which setting is best.

    SWEEP is a sweep file, such as those of configs/sweeps, or whatever `purejaxppo train` takes. An option with several
    values, as in --learning-rate 1e-4,3e-4,1e-3, is an axis, and so is an interval, as in --learning-rate 1e-4:1e-1:log
    (for a grid with a count, 1e-4:1e-1:log:16). An option with a single value replaces a setting. A sweep that was
    stopped goes on with --resume DIR.
    """

    settings: Annotated[str, Argument("SWEEP")] = ""  # sweep file, config file, name of a shipped one, or environment
    out: Path | None = None  # results folder, new or empty; default: sweeps/<name>-<time>
    resume: Path | None = None  # go on with the sweep of this folder
    seeds: Annotated[int, Interval("[0, 1000000]")] = 0  # seeds of every setting; 0: as the file says, otherwise 8
    test_seeds: Annotated[int, Interval("[-1, 1000000]")] = -1  # fresh seeds for the best setting; -1: as the file says
    method: str = ""  # grid, zip, random, quasi_random, optuna or population; default: as the file says, or grid
    num_settings: Annotated[int, Interval("[0, 10000000]")] = 0  # settings of a sample, or runs of a population
    batch: Annotated[int, Interval("[0, 1000000]")] = 0  # settings that Optuna chooses at once; 0: as the file says
    storage: str = ""  # URL of Optuna's database; default: as the file says, or a file in the results folder
    study: str = ""  # name of Optuna's study; sweeps with one storage and study share it
    share: Annotated[float, Interval("[0, 0.5]")] = 0.0  # of a population that copies better runs; 0: as the file says
    halvings: Annotated[int, Interval("[-1, 20]")] = -1  # stop the worse half this often; -1: as the file says
    keep: str = ""  # policies to keep, the best ones: a number or all; default: as the file says, or 1
    lanes: Annotated[int, Interval("[0, 65536]")] = 0  # runs side by side on each device; 0: measured
    parquet: bool = False  # also write the tables as Parquet. Needs the extra `parquet`
    trial: Annotated[
        int, Interval("[-1, 1000000000]")
    ] = -1  # with --resume: train this trial again, alone, and compare
    changes: Annotated[Mapping[str, object], Settings] = field(default_factory=dict)  # settings, single values or axes


def run_sweep_command(args: SweepCommand, problems: Sequence[Problem]) -> int:
    """Run a new sweep, go on with one, or train one of its trials again."""
    if args.resume is not None:
        return _resume(args, problems)
    if args.trial >= 0:
        problems = [*problems, Problem("--trial", ": needs --resume DIR, the folder of the trial", "missing")]
    if args.parquet and not problems:
        _check_parquet()
    given, base, source = read_files(args.settings)
    given, base, found = with_options(given, base, args)
    problems = [*problems, *found, *_folder_problems(args.out)]
    if not args.settings:
        problems.append(Problem("SWEEP", ": missing; a sweep file, or whatever `purejaxppo train` takes", "missing"))

    from purejaxppo.sweeps.spec import parse_sweep

    sweep, found = parse_sweep(given, base)
    problems += found
    _prepare(base)
    print(f"settings of {source}\nloading JAX", flush=True)

    from purejaxppo.sweeps.session import check_sweep, start_sweep

    groups = check_sweep(sweep, problems, source)
    use_compile_cache()
    stem = Path(source).stem if source.endswith(".toml") else groups[0].run.env.replace("/", "-")
    folder = args.out or Path("sweeps") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"{len(sweep.settings)} settings x {len(sweep.seeds)} seeds\nresults folder: {folder}", flush=True)
    command = shlex.join(["purejaxppo", *sys.argv[1:]]) if sys.argv else ""
    _until_interrupted(
        folder, lambda: start_sweep(sweep, groups, folder, args.lanes or None, command, _say, parquet=args.parquet)
    )
    return _finish(folder)


def _resume(args: SweepCommand, problems: Sequence[Problem]) -> int:
    folder = args.resume
    assert folder is not None
    problems = [*problems, *_resume_problems(args)]
    if problems:
        raise ConfigError(problems, "sweep")
    if args.parquet:
        _check_parquet()

    from purejaxppo.sweeps.store import read_sweep

    _prepare(read_sweep(folder)[0].base)

    from purejaxppo.sweeps.session import rerun_trial, resume_sweep

    use_compile_cache()
    if args.trial >= 0:
        return FINISHED if rerun_trial(folder, args.trial, _say) else FAILED
    _until_interrupted(folder, lambda: resume_sweep(folder, _say, parquet=args.parquet))
    return _finish(folder)


def _resume_problems(args: SweepCommand) -> list[Problem]:
    """Return a problem for each option that --resume does not take."""
    text = ": --resume goes on with the sweep of its folder as it is; leave this out"
    shown = {"settings": "SWEEP", "changes": "the settings"}
    unset = vars(SweepCommand())
    found = [
        Problem(shown.get(name, f"--{name.replace('_', '-')}"), text, "conflict")
        for name in (option.name for option in fields(SweepCommand))
        if name not in ("resume", "trial", "parquet") and getattr(args, name) != unset[name]
    ]
    if args.trial >= 0 and args.parquet:
        found.append(Problem("--parquet", ": --trial writes no table; leave this out", "conflict"))
    return found


def _check_parquet() -> None:
    """Find out before training whether Parquet can be written."""
    from purejaxppo.sweeps.table import import_pyarrow

    import_pyarrow()


def _finish(folder: Path) -> int:
    """Write the report, and print its tables."""
    from purejaxppo.analysis.report import write_report
    from purejaxppo.sweeps.studies import read_study

    write_report(read_study([folder]), folder / "report")
    print((folder / "report" / "report.md").read_text(encoding="utf-8").split("\nAll scores")[0])
    print(f"kept in {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
    return FINISHED


def _until_interrupted(folder: Path, run: Callable[[], None]) -> None:
    """Run; on Ctrl-C say how to go on."""
    try:
        run()
    except KeyboardInterrupt:
        print(f"\npurejaxppo: stopped; `purejaxppo sweep --resume {folder}` goes on", file=sys.stderr)
        raise


def _say(text: str) -> None:
    print(text, flush=True)


def _folder_problems(out: Path | None) -> list[Problem]:
    """Check a new results folder; one that holds a sweep is described when the sweep is known."""
    if out is not None and (out / "sweep.json").is_file():
        return []
    return folder_problems(out)


def _prepare(base: Tables) -> None:
    """Configure JAX and XLA for many runs of the size of the base settings."""
    from purejaxppo.devices.cpu import prepare_cpu

    run = from_tables(base)[0]
    try:
        prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches)
    except (TypeError, ZeroDivisionError):
        prepare_cpu()


# ---- where the settings come from


def read_files(name: str) -> tuple[dict[str, Value], dict[str, Value], str]:
    """Return the tables of a sweep file, those of the config file that it refers to, and where they come from.

    A config file, or the id of an environment, is a sweep without axes.

    Raises:
        ConfigError: a file cannot be read.
    """
    shipped = shipped_sweeps().get(name)
    text, source = find_settings(str(shipped) if shipped else name)
    tables = parse_tables(text, source)
    if not is_sweep_file(tables):
        return {}, tables, source
    reference = tables.pop("config", "")
    base: dict[str, Value] = {}
    if isinstance(reference, str) and reference:
        beside = Path(source).parent / reference
        base_text, base_source = find_settings(str(beside) if beside.is_file() else reference)
        base = parse_tables(base_text, base_source)
    elif reference != "":
        raise ConfigError([Problem("config", ": the name of a config file is a string", "type")], source)
    return tables, base, source


def is_sweep_file(tables: Tables) -> bool:
    """Return whether a TOML file is a sweep file: it names a config, or has one of its tables."""
    from purejaxppo.sweeps.spec import TABLE_NAMES

    return isinstance(tables.get("config"), str) or not tables.keys().isdisjoint(TABLE_NAMES)


def with_options(
    given: Tables, base: Tables, args: SweepCommand
) -> tuple[dict[str, Value], dict[str, Value], list[Problem]]:
    """Return the tables of a sweep file and of its base with the options of the command line laid over them."""
    from purejaxppo.sweeps.spec import evaluations_problem, flatten, is_numeric, with_changes

    joined, problems = dict(given), []
    numbers = {"seeds": (args.seeds, 0), "test_seeds": (args.test_seeds, -1), "halvings": (args.halvings, -1)}
    numbers |= {"num_settings": (args.num_settings, 0), "batch": (args.batch, 0), "share": (args.share, 0.0)}
    numbers |= {name: (getattr(args, name), "") for name in ("method", "storage", "study")}
    joined |= {name: value for name, (value, unset) in numbers.items() if value != unset}
    if args.keep:
        joined["keep"] = -1 if args.keep == "all" else read_value(int, [args.keep])
    axes, structure = (flatten(joined[x]) if isinstance(joined.get(x), dict) else {} for x in ("axes", "structure"))
    for key, value in flatten(args.changes).items():
        values = _several(value) or _interval(value)
        if key == "seed":
            joined["first_seed"] = value
        elif key == "evaluate_every":
            problems.append(evaluations_problem(key))
        elif values is None:
            base = with_changes(base, {key: value})
            joined["base"] = {k: v for k, v in flatten(joined.get("base", {})).items() if k != key}
        elif is_numeric(key):
            axes[key] = values
        else:
            structure[key] = values
    joined |= {name: table for name, table in (("axes", axes), ("structure", structure)) if table}
    return joined, dict(base), problems


def _several(value: Value) -> list[Value] | None:
    """Return the values of an option such as 1e-4,3e-4; None if it has one value."""
    if not isinstance(value, str) or "," not in value:
        return None
    return [read_literal(word.strip()) for word in value.split(",") if word.strip()]


def _interval(value: Value) -> dict[str, Value] | None:
    """Return the interval of an option such as 1e-4:1e-1:log:16, as in a sweep file; None if it is none."""
    words = value.split(":") if isinstance(value, str) else []
    numbers = [read_literal(word) for word in words]
    if len(words) < 2 or not all(is_number(x) for x in numbers[:2]):
        return None
    interval: dict[str, Value] = {"low": numbers[0], "high": numbers[1]}
    for x in numbers[2:]:
        name = "count" if is_number(x) else "scale"
        if name in interval:
            return None
        interval[name] = x
    return interval
