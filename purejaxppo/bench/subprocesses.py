"""Run a function in a subprocess, so that nothing it allocates, compiles or breaks reaches this process."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class ChildFailed(RuntimeError):
    """A subprocess ended without a result. The message is its error or its exit code."""


def run_in_subprocess(function: Callable[..., Any], *args: Any, log: Callable[[str], None] | None = None) -> Any:
    """Return `function(*args)`, computed in a new process.

    Args:
        function: a function at the top level of a module, which the new process imports by name.
        *args: its arguments.
        log: if given, the function gets one more argument, a callable that passes its text to `log` in this process.

    Raises:
        ChildFailed: the function raised an exception, or its process was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, function, args, log is not None), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "result":
                return value
            if kind == "error":
                raise ChildFailed(value)
            if log is not None:
                log(value)
    except EOFError:
        child.join()
        raise ChildFailed(f"its process ended with exit code {child.exitcode} (-9: out of memory?)") from None
    finally:
        child.kill()
        child.join()


def _child(sender: Connection, function: Callable[..., Any], args: tuple, has_log: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    extra = [lambda text: sender.send(("log", text))] if has_log else []
    try:
        result = function(*args, *extra)
        sender.send(("result", result))
    except Exception as error:
        sender.send(("error", f"{type(error).__name__}: {error}"))
