"""Does a test notice? Applies the faults of mutants.toml to a copy, one at a time, and runs the tests named there.

A fault counts as killed where a named test fails by an assertion (or by the exception that the fault names): one that
merely stops the code from being imported shows nothing. `python tests/mutants.py --help` says what can be asked for.
"""

import argparse
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "mutants.toml"
TABLE = ROOT / "docs" / "mutants.md"
COPIED = ("purejaxppo", "tests", "configs", "pyproject.toml")
LIMIT = 300.0  # seconds for one fault: one that makes a loop endless has not been noticed by a test

HEAD = """# Faults that the tests notice

Each row is a fault of one line, most of a kind that implementations of PPO have had: training still runs, but
learns worse. `make mutants` applies one at a time to a copy of the code and runs the tests that
`tests/mutants.toml` names for it. One of them must fail by an assertion, or by the exception that the fault names: a
crash shows nothing. Before, all of these tests must pass without a fault.

**{killed}** in {where}.

One common fault cannot occur: steps cannot overflow int32, because the state counts updates, and Python multiplies them
by the size of a rollout.

This file is written by `make mutants ARGS=--table`.

| fault | in | what goes wrong | killed by |
|---|---|---|---|"""


class Mutant(NamedTuple):
    """A fault as data; mutants.toml says what each field is."""

    id: str
    file: str
    old: str
    new: str
    why: str
    tests: list[str]
    raises: str = "AssertionError"


class Verdict(NamedTuple):
    """The result for a mutant: the test that killed it, or "" and another outcome."""

    mutant: Mutant
    killer: str
    note: str
    seconds: float


def load() -> list[Mutant]:
    """Return all mutants of mutants.toml, in its order."""
    return [Mutant(**entry) for entry in tomllib.loads(DATA.read_text(encoding="utf-8"))["mutant"]]


def mutated(source: str, mutant: Mutant) -> str:
    """Return the source with the fault.

    Raises:
        ValueError: the old text does not occur exactly once.
    """
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.id}: the old text occurs {source.count(mutant.old)} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


def make_copy(folder: Path) -> Path:
    """Copy what the tests need to a folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return folder


def python(folder: Path, *arguments: str, limit: float | None = None) -> subprocess.CompletedProcess:
    """Return this Python with the copy on its path before any installed package; all copies share compiled programs."""
    env = dict(os.environ, PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1", COLUMNS="1000", JAX_PLATFORMS="cpu")
    env |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=limit, check=False)


def run_tests(folder: Path, tests: list[str], limit: float | None = None) -> subprocess.CompletedProcess:
    """Run pytest on the named tests of the copy, up to the first failure."""
    return python(folder, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, limit=limit)


def read_outcome(result: subprocess.CompletedProcess, raises: str) -> tuple[str, str]:
    """Return (the test that failed as expected, ""), or ("", another outcome)."""
    failed = re.search(r"^FAILED (\S+::.+?) - (.*)$", result.stdout, re.MULTILINE)
    if result.returncode == 0:
        return "", "all tests passed"
    if result.returncode != 1 or failed is None:
        return "", f"pytest could not run the tests (exit code {result.returncode})"
    name, message = failed.groups()
    found = "AssertionError" if message.startswith("assert ") else message.split(":")[0].split(".")[-1]
    return (name, "") if found == raises else ("", f"{name} failed by {found}, not by {raises}: {message}")


def judge(folder: Path, mutant: Mutant) -> Verdict:
    """Apply the fault to the copy, run its tests, and remove the fault."""
    start, path = time.monotonic(), folder / mutant.file
    source = path.read_text(encoding="utf-8")
    path.write_text(mutated(source, mutant), encoding="utf-8")
    try:
        outcome = read_outcome(run_tests(folder, mutant.tests, LIMIT), mutant.raises)
    except subprocess.TimeoutExpired:
        outcome = ("", f"not done after {LIMIT:.0f} s")
    finally:
        path.write_text(source, encoding="utf-8")
    return Verdict(mutant, *outcome, time.monotonic() - start)


def judge_all(folders: list[Path], mutants: list[Mutant]) -> list[Verdict]:
    """Return a verdict for every mutant and print each as it comes; the copies work in parallel."""
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for folder in folders:
        free.put(folder)

    def one(mutant: Mutant) -> Verdict:
        folder = free.get()
        try:
            verdict = judge(folder, mutant)
        finally:
            free.put(folder)
        what = f"killed by {verdict.killer}" if verdict.killer else f"SURVIVED: {verdict.note}"
        print(f"{mutant.id:<37} {verdict.seconds:5.1f} s  {what}", flush=True)
        return verdict

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(one, mutants))


def unmodified(folder: Path, mutants: list[Mutant]) -> None:
    """Exit unless the copy is tested and all named tests pass without a fault."""
    where = python(folder, "-c", "import importlib.util as u; print(u.find_spec('purejaxppo').origin)").stdout.strip()
    if not Path(where or "/").resolve().is_relative_to(folder.resolve()):
        sys.exit(f"the tests would import {where}, not the copy")
    result = run_tests(folder, sorted({test for mutant in mutants for test in mutant.tests}))
    if result.returncode != 0:
        sys.exit(f"{result.stdout}{result.stderr}\nsome tests fail without any fault")


def table(verdicts: list[Verdict], seconds: float, jobs: int) -> str:
    """Return the text of docs/mutants.md."""
    killed = f"{sum(bool(v.killer) for v in verdicts)} of {len(verdicts)} killed"
    where = f"{seconds / 60:.0f} minutes ({os.cpu_count()} cores, {jobs} at a time, Python {platform.python_version()})"
    lines = [HEAD.format(killed=killed, where=where)]
    for mutant, killer, note, _ in verdicts:
        by = f"`{killer}`" if killer else f"**survived**: {note}"
        by += "" if mutant.raises == "AssertionError" else f", by a {mutant.raises}"
        lines.append(f"| {mutant.id} | `{mutant.file}` | {mutant.why} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ID", action="append", help="this fault alone; may be given several times")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time (default 1)")
    parser.add_argument("--table", action="store_true", help="write docs/mutants.md")
    args = parser.parse_args()
    mutants = load()
    if unknown := set(args.only or ()) - {mutant.id for mutant in mutants}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if args.only and args.table:
        parser.error("--table needs all faults, not --only some")
    mutants = [mutant for mutant in mutants if not args.only or mutant.id in args.only]

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [make_copy(Path(temporary) / f"copy{i}") for i in range(max(args.jobs, 1))]
        unmodified(folders[0], mutants)
        print(f"{'without any fault':<37} {time.monotonic() - start:5.1f} s  all named tests pass", flush=True)
        verdicts = judge_all(folders, mutants)
    seconds = time.monotonic() - start
    if args.table:
        TABLE.write_text(table(verdicts, seconds, len(folders)), encoding="utf-8")
    survivors = [verdict.mutant.id for verdict in verdicts if not verdict.killer]
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} killed in {seconds:.0f} s", flush=True)
    if survivors:
        sys.exit(f"survived: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
