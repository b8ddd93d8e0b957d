"""Consoles that write escape codes only to a terminal that understands them."""

import os
import sys
from typing import IO

from rich.console import Console


def is_capable(file: IO[str]) -> bool:
    """Return whether `file` is a terminal that can move its cursor and show Unicode.

    FORCE_COLOR does not count: with redirected output it would write escape codes into a file.
    """
    if not file.isatty() or os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return (getattr(file, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def make_console(file: IO[str] | None = None) -> Console:
    """Return a console for `file`, standard output unless given, with colors only if `is_capable`."""
    stream = sys.stdout if file is None else file
    return Console(file=stream, force_terminal=is_capable(stream), highlight=False)
