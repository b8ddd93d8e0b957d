"""A lock on a run folder, so that two processes cannot write the same run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from purejaxppo.config.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows cannot lock a folder
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    The operating system releases the lock however its process ends, so no lock is left behind. On Windows,
    and on file systems without locks, nothing is locked.

    Raises:
        UsageError: another process holds the lock.
        OSError: the folder cannot be opened.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process writes this run; wait until it has ended") from None
        except OSError:
            pass  # this file system has no locks
        yield
    finally:
        os.close(handle)
