"""Errors about settings and usage."""

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal[
    "unknown",  # no setting or option has this name
    "type",  # a value of another type
    "range",  # a number outside of its interval
    "choice",  # not one of the valid names
    "conflict",  # valid by itself, but not together with other settings
    "missing",  # a required value or argument
    "file",  # a file or folder that cannot be used
    "environment",  # the environment cannot be made
    "network",  # the network does not fit the environment
]


class Problem(NamedTuple):
    """One thing that is wrong with the settings or the command line."""

    key: str  # dotted name of the setting, such as config.num_envs, or the option or file
    text: str  # what is wrong and what to write instead; continues the key
    kind: Kind

    def __str__(self) -> str:
        return f"{self.key}{self.text}"


class ConfigError(ValueError):
    """Settings that cannot be used. The message lists every problem; `problems` holds them one by one."""

    def __init__(self, problems: Iterable[Problem], source: str = ""):
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        head = f"{source}: {count}" if source else f"{count} in the settings"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class UsageError(Exception):
    """A request that cannot be carried out as it is. The user can correct it: no traceback, exit code 2."""
