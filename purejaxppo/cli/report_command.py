"""`purejaxppo report`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument
from purejaxppo.config.errors import ConfigError, Problem


@dataclass(frozen=True)
class Report:
    """Write the report of sweeps and of runs: learning curves, intervals, profiles, comparison, tables.

    Runs that differ in their seed only are one setting. The page index.html contains its figures; report.md and
    table.tex have the tables for a paper.
    """

    folder: Annotated[Path, Argument("DIR")]  # results folder of a sweep, or a run folder
    more: Annotated[tuple[str, ...], Argument("DIR ...")] = ()  # further folders
    out: Path | None = None  # folder of the report; default: DIR/report
    title: str = ""  # of the page; default: the names of the folders


def run_report(args: Report, problems: Sequence[Problem]) -> int:
    """Read the folders, write the report, and print where it is."""
    from purejaxppo.sweeps.studies import folder_problems, read_study

    folders = [args.folder, *(Path(name) for name in args.more)]
    problems = list(problems)
    if not any(problem.key == "DIR" for problem in problems):
        problems += folder_problems(folders, "DIR")
    if problems:
        raise ConfigError(problems, "report")
    out = args.out or args.folder / "report"
    if out.exists() and not out.is_dir():
        raise ConfigError([Problem("--out", f" {out}: is a file, not a folder", "file")], "report")

    from purejaxppo.analysis.report import write_report

    write_report(read_study(folders, args.title), out)
    print((out / "report.md").read_text(encoding="utf-8").split("\nAll scores")[0])
    print(f"kept in {out}: {', '.join(sorted(entry.name for entry in out.iterdir()))}")
    return FINISHED
