"""`purejaxppo compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument
from purejaxppo.config.errors import ConfigError, Problem

MOST = 10


@dataclass(frozen=True)
class Compare:
    """Compare two to ten runs or sweeps: a ranked table with intervals, and a report if --out names a folder."""

    first: Annotated[Path, Argument("RUN")]  # run folder, or results folder of a sweep
    second: Annotated[Path, Argument("RUN")]  # another one
    more: Annotated[tuple[str, ...], Argument("RUN ...")] = ()  # up to eight more
    out: Path | None = None  # folder of a report; default: none is written


def run_compare(args: Compare, problems: Sequence[Problem]) -> int:
    """Print the ranked table of some runs."""
    from purejaxppo.sweeps.studies import folder_problems, read_study

    folders = [args.first, args.second, *(Path(name) for name in args.more)]
    problems = list(problems)
    if len(folders) > MOST:
        problems.append(Problem("RUN", f": {len(folders)} runs; at most {MOST} are compared", "range"))
    if not problems:
        problems += folder_problems(folders, "RUN")
    if problems:
        raise ConfigError(problems, "compare")

    from purejaxppo.analysis.study import notes, rank, table_rows, tasks

    study = read_study(folders)
    for task in tasks(study):
        rows = table_rows(rank(study, task))
        print(f"{task}: {study.score}")
        for line in [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []:
            widths = [max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]]
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    print("\n".join(f"note: {note}" for note in notes(study)))
    if args.out is not None:
        from purejaxppo.analysis.report import write_report

        write_report(study, args.out)
        print(f"kept in {args.out}: {', '.join(sorted(entry.name for entry in args.out.iterdir()))}")
    return FINISHED
