"""Loggers that may fail: training is worth more than the display of its progress."""

from collections.abc import Callable


def never_raises(log: Callable[..., object], name: str, warn: Callable[[str], None]) -> Callable[..., None]:
    """Return `log` without its errors: the first of them is said, and the others are ignored.

    Args:
        log: a function that shows or sends something and returns nothing.
        name: what it does, for the warning.
        warn: called with a sentence.
    """
    failed = False

    def call(*args: object) -> None:
        nonlocal failed
        try:
            log(*args)
        except Exception as error:  # whatever it is
            if not failed:
                warn(f"{name} failed: {type(error).__name__}: {error}; training continues")
            failed = True

    return call
