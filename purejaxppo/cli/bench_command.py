"""`purejaxppo bench`."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from purejaxppo._util.text import nearest
from purejaxppo.cli.commands import Bench
from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.config.errors import Problem, UsageError


def run_bench(args: Bench) -> int:
    """Measure, and leave a table, a picture and, where wanted, all numbers as JSON."""
    from purejaxppo.bench.workloads import WORKLOADS

    out = args.out or (args.json.parent if args.json else Path())
    problems = _bench_problems(args, out, list(WORKLOADS))
    if problems:
        raise UsageError("bench cannot be run so:\n" + "\n".join(f"  {problem}" for problem in problems))

    from rich.console import Console

    from purejaxppo._util.files import write_atomic
    from purejaxppo._util.text import duration
    from purejaxppo.bench.benchmark import run_benchmark as measure
    from purejaxppo.bench.figure import plot_bench
    from purejaxppo.bench.table import bench_table
    from purejaxppo.bench.timing import TimingBudget

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{duration(time.monotonic() - started):>6}  {text}", flush=True)

    chosen = {name: WORKLOADS[name] for name in args.workload}
    curves = WORKLOADS["W1"].run if args.scaling else None
    report = measure(chosen or None, TimingBudget(args.repetitions, args.seconds), say, curves)
    if args.json:
        write_atomic(args.json, json.dumps(report, indent=1))
    plot_bench(out / "bench.png", report)
    Console().print(bench_table(report))
    print(f"kept: {', '.join(str(path) for path in (args.json, out / 'bench.png') if path)}")
    failed = {name: result["error"] for name, result in report["workloads"].items() if "error" in result}
    for name, error in failed.items():
        print(f"purejaxppo: {name} failed: {error}", file=sys.stderr)
    return FAILED if failed else FINISHED


def _bench_problems(args: Bench, out: Path, names: Sequence[str]) -> list[Problem]:
    """What is wrong with the options: better said now than after minutes."""
    problems = [
        Problem(
            "--workload",
            f" {name}: no such workload; did you mean {' or '.join(nearest(name, names, 2))}? "
            f"(one of {', '.join(names)})",
            "choice",
        )
        for name in args.workload
        if name not in names
    ]
    if not 1 <= args.repetitions <= 1000:
        problems.append(Problem("--repetitions", f" {args.repetitions}: must lie between 1 and 1000", "range"))
    if not 0.0 <= args.seconds <= 3600.0:
        problems.append(Problem("--seconds", f" {args.seconds}: must lie between 0 and 3600", "range"))
    if args.json and args.json.is_dir():
        problems.append(Problem("--json", f" {args.json}: is a folder, not a file", "file"))
    option = "--out" if args.out or not args.json else "--json"
    folders = {"--json": args.json.parent} if args.json else {}
    return problems + [
        Problem(option, f" {folder}: no folder that can be written to", "file")
        for option, folder in (folders | {option: out}).items()
        if not (folder.is_dir() and os.access(folder, os.W_OK))
    ]
