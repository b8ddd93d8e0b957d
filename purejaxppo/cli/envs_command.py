"""`purejaxppo envs`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import suggestion


@dataclass(frozen=True)
class Envs:
    """List the environments that can be trained on."""

    suite: Annotated[str, Argument("SUITE")] = ""  # list one suite only


def run_envs(args: Envs, problems: Sequence[Problem]) -> int:
    """Print the id of every environment, by suite."""
    from purejaxppo.envs.registry import available

    suites = available()
    problems = list(problems)
    if args.suite and args.suite not in suites:
        near = suggestion(args.suite, suites)
        hint = f"did you mean {near}? " if near else ""
        problems.append(Problem(args.suite, f": no such suite; {hint}(installed: {', '.join(suites)})", "choice"))
    if problems:
        raise ConfigError(problems, "envs")
    for suite, names in suites.items():
        if args.suite in ("", suite):
            _print_names(suite, names)
    return FINISHED


def _print_names(suite: str, names: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        print("\n".join(f"{suite}/{name}" for name in names))
        return
    from rich.columns import Columns

    from purejaxppo.tracking.terminal import make_console

    console = make_console()
    console.print(f"[bold]{suite}[/bold] ({len(names)})")
    console.print(Columns(names, padding=(0, 2), column_first=True))
