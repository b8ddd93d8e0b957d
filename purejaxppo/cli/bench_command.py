"""`purejaxppo bench`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.options import Interval
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import suggestion

if TYPE_CHECKING:
    from purejaxppo.bench.timing import Report


@dataclass(frozen=True)
class Bench:
    """Measure the speed of PPO on this machine: a table, and a figure bench.png. Takes minutes."""

    workload: tuple[str, ...] = ()  # such as W1 W2; default: all that suit the platform
    json: Path | None = None  # file for all measured values
    out: Path | None = None  # folder of the figure; default: that of the JSON file, or the working directory
    scaling: bool = False  # also measure speed against the number of environments, and time per update over a long run
    repetitions: Annotated[int, Interval("[1, 1000]")] = 5  # timed repetitions; their median is reported
    seconds: Annotated[float, Interval("[0, 3600]")] = 0.5  # shortest duration of a repetition
    fast_flags: bool = False  # compiler passes that XLA leaves off; faster, but XLA aborts on some programs


def run_bench(args: Bench, problems: Sequence[Problem]) -> int:
    """Measure, print a table, draw a figure and, if asked for, write all values as JSON."""
    from purejaxppo.bench.workloads import WORKLOADS

    out = args.out or (args.json.parent if args.json else Path())
    problems = [*problems, *_workload_problems(args.workload, list(WORKLOADS)), *_path_problems(args, out)]
    if problems:
        raise ConfigError(problems, "bench")

    from purejaxppo._util.text import duration
    from purejaxppo.bench.benchmark import run_benchmark
    from purejaxppo.bench.timing import TimingBudget
    from purejaxppo.devices.cpu import FAST_FLAGS_VARIABLE

    if args.fast_flags:
        os.environ[FAST_FLAGS_VARIABLE] = "1"  # the workloads are measured in subprocesses, which inherit it
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{duration(time.monotonic() - started):>6}  {text}", flush=True)

    chosen = {name: WORKLOADS[name] for name in args.workload}
    curves = WORKLOADS["W1"].run if args.scaling else None
    report = run_benchmark(chosen or None, TimingBudget(args.repetitions, args.seconds), say, curves)
    _keep(report, args.json, out)
    failed = {name: result["error"] for name, result in report["workloads"].items() if "error" in result}
    for name, error in failed.items():
        print(f"purejaxppo: {name} failed: {error}", file=sys.stderr)
    return FAILED if failed else FINISHED


def _keep(report: Report, file: Path | None, out: Path) -> None:
    """Write and print the results."""
    from purejaxppo._util.files import write_atomic
    from purejaxppo.bench.figure import plot_bench
    from purejaxppo.bench.table import bench_table
    from purejaxppo.tracking.terminal import make_console

    if file:
        write_atomic(file, json.dumps(report, indent=1))
    plot_bench(out / "bench.png", report)
    make_console().print(bench_table(report))
    print(f"kept: {', '.join(str(path) for path in (file, out / 'bench.png') if path)}")


def _workload_problems(given: Sequence[str], names: Sequence[str]) -> list[Problem]:
    problems = []
    for name in given:
        if name not in names:
            near = suggestion(name, names)
            hint = f"did you mean {near}? " if near else ""
            problems.append(
                Problem("--workload", f" {name}: no such workload; {hint}(one of {', '.join(names)})", "choice")
            )
    return problems


def _path_problems(args: Bench, out: Path) -> list[Problem]:
    """Check that the results can be written, before minutes of measuring."""
    problems = []
    if args.json and args.json.is_dir():
        problems.append(Problem("--json", f" {args.json}: is a folder, not a file", "file"))
    folders = {"--json": args.json.parent} if args.json else {}
    folders |= {"--out": out} if args.out or not args.json else {}
    return problems + [
        Problem(option, f" {folder}: is not a folder that can be written to", "file")
        for option, folder in folders.items()
        if not (folder.is_dir() and os.access(folder, os.W_OK))
    ]
