"""`purejaxppo envs`."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import suggestion

if TYPE_CHECKING:
    from purejaxppo.envs.facts import Facts

Listing = Mapping[str, Sequence["Facts"]]  # facts about the environments of each suite

TITLES = ("id", "actions", "clock", "memory", "observation")


@dataclass(frozen=True)
class Envs:
    """List the environments that can be trained on, or describe one.

    A line has the id, the observation space, the action space, the steps after which an episode is truncated and the
    memory of one environment (its state and one observation). Into a pipe, fields are written in full and separated by
    tabs. The facts are recorded with the tested versions of the suites, so nothing is imported, and suites that are not
    installed are listed too. An environment that is not recorded has only its id; `purejaxppo envs SUITE/ID` makes it
    and measures it, which takes up to a minute.
    """

    suite: Annotated[str, Argument("SUITE")] = ""  # list one suite (brax), or describe one environment (brax/ant)


def run_envs(args: Envs, problems: Sequence[Problem]) -> int:
    """Print the environments by suite, or the facts about one."""
    from purejaxppo.envs.registry import known

    listing = known()
    names = {f"{suite}/{row.id}": row for suite, rows in listing.items() for row in rows}
    name = args.suite if not args.suite or args.suite in listing else _full_name(args.suite, names)
    problems = list(problems)
    if name and name not in listing and name not in names:
        problems.append(_unknown(name, listing, names))
    if problems:
        raise ConfigError(problems, "envs")
    if name in names:
        print(_describe(names[name]))
        return FINISHED
    for suite, rows in listing.items():
        if name in ("", suite):
            print("\n".join(_table(suite, rows) if sys.stdout.isatty() else map(_fields, rows)))
    return FINISHED


def _full_name(name: str, names: Mapping[str, object]) -> str:
    """Return the name with its suite, of which the first that has the id is meant."""
    return next((full for full in names if full.partition("/")[2] == name), name)


def _unknown(name: str, listing: Listing, names: Mapping[str, object]) -> Problem:
    suite = name.partition("/")[0]
    if suite in listing:
        near = suggestion(name, [full for full in names if full.startswith(f"{suite}/")])
        hint = f"did you mean {near}?" if near else f"`purejaxppo envs {suite}` lists all"
        return Problem(name, f": no such environment; {hint}", "choice")
    near = suggestion(name, [*listing, *names, *(full.partition("/")[2] for full in names)])
    hint = f"did you mean {near}? " if near else ""
    return Problem(name, f": no such suite or environment; {hint}(suites: {', '.join(listing)})", "choice")


# Many environments ----------------------------------------------------------------------------------------------------


def _fields(row: "Facts") -> str:
    """Return the facts of an environment as fields separated by tabs; numbers are steps and bytes."""
    size = row.state_bytes + row.observation_bytes
    numbers = ["" if x is None else str(x) for x in (row.time_limit, size or None)]
    return "\t".join([f"{row.suite}/{row.id}", row.observation, row.action, *numbers, row.note, _install(row.suite)])


def _table(suite: str, rows: Sequence["Facts"]) -> list[str]:
    """Return the lines about a suite, as wide as the terminal."""
    install = _install(suite)
    title = f"{suite}: {len(rows)} environments" + (f", not installed: {install}" if install else "")
    cells = [(row.id, row.action, _clock(row), _memory(row), row.observation or _gap(row)) for row in rows]
    widths = [max(len(cell[i]) for cell in (TITLES, *cells)) for i in range(len(TITLES))]
    columns = shutil.get_terminal_size((80, 24)).columns
    return [title, *(line for cell in (TITLES, *cells) for line in _lines(cell, widths, columns)), ""]


def _lines(cells: Sequence[str], widths: Sequence[int], columns: int) -> list[str]:
    """Return the line of an environment; an observation that does not fit follows below."""
    name, action, *numbers, observation = cells
    aligned = [cell.rjust(width) for cell, width in zip(numbers, widths[2:4], strict=True)]
    line = "  ".join(["", name.ljust(widths[0]), action.ljust(widths[1]), *aligned])
    if len(line) + 2 + len(observation) <= columns:
        return [f"{line}  {observation}"]
    return [line, *textwrap.wrap(observation, columns, initial_indent=" " * 6, subsequent_indent=" " * 8)]


def _gap(row: "Facts") -> str:
    """Return why an environment is not recorded."""
    return f"({row.note or 'not recorded'})"


def _clock(row: "Facts") -> str:
    return "" if not row.observation else "-" if row.time_limit is None else str(row.time_limit)


def _memory(row: "Facts") -> str:
    size = row.state_bytes + row.observation_bytes
    return "" if not size else f"{size} B" if size < 10_000 else f"{size / 1000:.0f} kB"


# One environment ------------------------------------------------------------------------------------------------------


def _describe(row: "Facts") -> str:
    """Return the facts about one environment as lines; one that is not recorded is made if its suite is installed."""
    install = _install(row.suite)
    if not row.observation and not install:
        row = _measure(row)
    lines = {"observation": row.observation, "actions": row.action}
    if row.observation:
        lines["time limit"] = "none" if row.time_limit is None else f"{row.time_limit} steps"
        lines["memory"] = f"{row.state_bytes} bytes of state, {row.observation_bytes} bytes of observation"
    lines |= {"note": row.note, "install": install}
    listed = [f"  {title:11}  {text}" for title, text in lines.items() if text]
    return "\n".join([f"{row.suite}/{row.id}", *listed])


def _measure(row: "Facts") -> "Facts":
    from purejaxppo.envs.errors import EnvironmentProblem
    from purejaxppo.envs.facts import facts_of
    from purejaxppo.envs.registry import make

    name = f"{row.suite}/{row.id}"
    print(f"making {name}", file=sys.stderr)
    try:
        return facts_of(make(name))._replace(note=row.note)
    except EnvironmentProblem as error:
        raise ConfigError([Problem(name, f": {error}", "environment")], "envs") from None


def _install(suite: str) -> str:
    """Return the command that installs a suite; "" if it is installed."""
    from purejaxppo.envs.errors import SUITES
    from purejaxppo.envs.registry import installed

    return "" if installed(suite) else f"pip install {SUITES[suite].install}"
