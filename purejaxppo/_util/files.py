"""Write files so that a crash leaves the old or the new content, and read only files of a known size."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` so that, after a crash, the file has either its old or its new content.

    Args:
        path: the file to write.
        data: its whole content; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; its old content is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Write the names in `folder` to disk: a renamed file survives a power failure only after this.

    File systems that cannot do it (and Windows) are left alone.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def open_regular(path: str | Path, max_bytes: int) -> BinaryIO:
    """Open a regular file of at most `max_bytes` for reading.

    The path must not name a link, a folder, a pipe or a device; opening one of these fails at once instead of blocking.

    Args:
        path: the file to open.
        max_bytes: the largest size that is accepted.

    Raises:
        OSError: the file cannot be opened, is not a regular file, or is larger than `max_bytes`.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if os.path.islink(path):  # the flag alone answers "too many levels of symbolic links"
        raise OSError(f"{path} is a link, not a file")
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > max_bytes:
            raise OSError(f"{path} has {status.st_size:,} bytes; at most {max_bytes:,} are expected")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")
