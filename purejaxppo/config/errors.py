"""Errors about settings and usage."""

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: the dotted key it is about, and what to do."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}{self.text}"


class ConfigError(ValueError):
    """Settings that cannot be run; the message lists every problem. `problems` holds them one by one."""

    def __init__(self, problems: Iterable[Problem], source: str = ""):
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        head = f"{source}: {count}" if source else f"{count} in the settings"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class UsageError(Exception):
    """A mistake that the user can correct: printed without a traceback, exit code 2."""
