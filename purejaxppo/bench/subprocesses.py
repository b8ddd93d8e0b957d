"""A function in a process of its own: nothing that it allocates, compiles or breaks reaches ours."""

import multiprocessing
import signal
from collections.abc import Callable
from typing import Any


class ChildFailed(RuntimeError):
    """A process of its own ended without a result; says how."""


def run_in_subprocess(function: Callable[..., Any], *args: Any, say: Callable[[str], None] | None = None) -> Any:
    """`function(*args)` in a process of its own; with `say`, `function(*args, say)`, and what it says is passed on.

    Raises ChildFailed with the message of what it raised, or with the exit code where it was killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, function, args, say is not None), daemon=True)
    child.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "result":
                return value
            if kind == "error":
                raise ChildFailed(value)
            if say is not None:
                say(value)
    except EOFError:
        child.join()
        raise ChildFailed(f"its process ended with exit code {child.exitcode} (-9: out of memory?)") from None
    finally:
        child.kill()
        child.join()


def _child(sender: Any, function: Callable[..., Any], args: tuple, talks: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    try:
        result = function(*args, *([lambda text: sender.send(("say", text))] if talks else []))
        sender.send(("result", result))
    except Exception as error:
        sender.send(("error", f"{type(error).__name__}: {error}"))
