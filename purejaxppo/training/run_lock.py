"""A lock on a run folder, so that two processes cannot write the same run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from purejaxppo.config.errors import UsageError

LOCK_FILE = ".lock"  # where a folder itself cannot be locked

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    The operating system releases the lock however its process ends, so no lock is left behind. NFS locks no folders,
    only files that are open for writing; there the lock is on a file in the folder, which stays. On Windows, and on
    file systems without any locks, nothing is locked.

    Raises:
        UsageError: another process holds the lock.
        OSError: the folder cannot be opened.
    """
    if fcntl is None:  # such a system opens no folders either
        yield
        return
    handles = [os.open(folder, os.O_RDONLY)]
    try:
        if not _locked(handles[0], folder):
            with suppress(OSError):  # a folder that cannot be written
                handles.append(os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644))
                _locked(handles[1], folder)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _locked(handle: int, folder: Path) -> bool:
    """Lock an open file or folder, and return False if this file system cannot.

    Raises:
        UsageError: another process holds the lock.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{folder}: another process writes this run; wait until it has ended") from None
    except OSError:
        return False
    return True
