"""`purejaxppo envs`."""

import sys
from collections.abc import Sequence

from purejaxppo._util.text import nearest
from purejaxppo.cli.commands import Envs
from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.config.errors import UsageError


def run_envs(args: Envs) -> int:
    """Print every environment id, by suite."""
    from purejaxppo.envs.registry import available

    suites = available()
    if args.suite and args.suite not in suites:
        listed = ", ".join(suites)
        raise UsageError(
            f'no suite "{args.suite}"; did you mean {nearest(args.suite, suites)[0]}? (installed: {listed})'
        )
    for suite, names in suites.items():
        if args.suite in ("", suite):
            _print_names(suite, names)
    return FINISHED


def _print_names(suite: str, names: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        print("\n".join(f"{suite}/{name}" for name in names))
        return
    from rich.columns import Columns
    from rich.console import Console

    console = Console(highlight=False)
    console.print(f"[bold]{suite}[/bold] ({len(names)})")
    console.print(Columns(names, padding=(0, 2), column_first=True))
