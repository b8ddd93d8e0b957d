"""Standard output whose loss does not end a run: a closed pipe, a closed terminal, a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class TolerantStream:
    """A text stream that raises no errors; after the first error it discards all output."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text` if that is possible."""
        try:
            return self.stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream was closed
            self.discard()
            return len(text)

    def flush(self) -> None:
        """Flush the stream if that is possible."""
        try:
            self.stream.flush()
        except (OSError, ValueError):
            self.discard()

    def discard(self) -> None:
        """Discard what is buffered and everything that follows."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Ignore errors of standard output and standard error, in the whole process."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = TolerantStream(sys.stdout), TolerantStream(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
