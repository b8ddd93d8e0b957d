"""Make the standard streams usable, whatever their state and encoding."""

import os
import sys
from typing import Any, cast


def prepare_streams() -> None:
    """Make sure that printing works.

    A stream that is closed (`>&-`) goes to the null device, and its file descriptor is filled so that no file of a run
    gets it. A character that the encoding of a stream lacks is written as a question mark.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest descriptor that is free
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            cast(Any, stream).reconfigure(errors="replace")
