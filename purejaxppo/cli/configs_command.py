"""`purejaxppo configs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import suggestion
from purejaxppo.config.shipped import env_of, shipped_configs, tuned_config


@dataclass(frozen=True)
class Configs:
    """List the shipped settings, or print one of them.

    `purejaxppo configs cartpole > mine.toml` is a start for settings of your own.
    """

    name: Annotated[str, Argument("NAME")] = ""  # print this one: a listed name, or the id of an environment


def run_configs(args: Configs, problems: Sequence[Problem]) -> int:
    """Print a table of the shipped settings, or the text of one."""
    shipped = shipped_configs()
    problems = list(problems)
    file = shipped.get(args.name) or (tuned_config(args.name) if args.name else None)
    if args.name and file is None:
        near = suggestion(args.name, shipped)
        hint = f"; did you mean {near}?" if near else "; `purejaxppo configs` lists them"
        problems.append(Problem(args.name, f": no shipped settings of this name{hint}", "choice"))
    if problems:
        raise ConfigError(problems, "configs")
    if file is not None:
        print(file.read_text(encoding="utf-8"), end="")
        return FINISHED
    rows = [(name, env_of(path), _first_comment(path)) for name, path in shipped.items()]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, env, about in rows:
        print(f"{name:{widths[0]}}  {env:{widths[1]}}  {about}".rstrip())
    return FINISHED


def _first_comment(file: Path) -> str:
    """Return the first line of a file if it is a comment."""
    line = file.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ") if line.startswith("#") else ""
