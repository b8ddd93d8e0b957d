"""A check: its name, its result, and what to do."""

from collections.abc import Callable
from typing import NamedTuple

NOT_RUN = "not run, because an earlier check failed"

MAX_LINES = 4  # of an error that advice quotes


class Check(NamedTuple):
    """The result of one check."""

    name: str
    passed: bool | None  # None: what it needs was not seen, or could not run
    advice: str = ""  # what is wrong and what to do; for a check that passed, a remark or nothing


def passed(name: str, remark: str = "") -> Check:
    """Return a check that passed."""
    return Check(name, True, remark)


def failed(name: str, advice: str) -> Check:
    """Return a check that failed."""
    return Check(name, False, advice)


def not_seen(name: str, remark: str) -> Check:
    """Return a check that could not be decided."""
    return Check(name, None, remark)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Return the result of `check`; an exception is a failure whose message is the advice."""
    try:
        return check()
    except Exception as error:
        return failed(name, what_happened(error))


def what_happened(error: BaseException) -> str:
    """Return an exception as advice: its class and the first lines of its message."""
    lines = [line for line in str(error).splitlines() if line.strip()][:MAX_LINES]
    return f"{type(error).__name__}: {' '.join(line.strip() for line in lines)}"
