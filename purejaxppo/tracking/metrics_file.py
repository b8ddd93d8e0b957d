"""A CSV file of metrics that stays complete if a run is killed or resumed, or if the disk is full."""

import csv
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from purejaxppo.tracking.csv_file import Row


class MetricsFile:
    """A CSV file that grows by rows; the keys of the first row are its header.

    Rows are in the file after every call, so that a run that is killed leaves them behind. Rows that cannot be written,
    as on a full disk, are kept and written with the next ones.

    Args:
        path: the file.
        num_bytes: None for a new file; else the length of an existing file of which the rest is cut off.

    Raises:
        FileExistsError: a new file is wanted, and there is one.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path, num_bytes: int | None = None):
        self.num_bytes = 0 if num_bytes is None else _whole_lines(path, num_bytes)  # written completely
        self._waiting: list[bytes] = []
        self._header: list[str] = []
        self._file = open(path, "xb" if num_bytes is None else "r+b", buffering=0)  # noqa: SIM115 - see close
        if self.num_bytes:
            self._header = self._file.readline().decode().strip().split(",")
        self._file.truncate(self.num_bytes)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows.

        Raises:
            OSError: they could not be written; they are kept for the next call.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if rows and not self._header:
            self._header = list(rows[0])
            writer.writerow(self._header)
        writer.writerows([_written(row.get(name, math.nan)) for name in self._header] for row in rows)
        self._waiting += [text.getvalue().encode()] if rows else []
        data = b"".join(self._waiting)
        self._file.seek(self.num_bytes)  # part of the data may be there from a call that failed
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.num_bytes += len(data)
        self._waiting = []

    def sync(self) -> int:
        """Write everything through to the disk and return the length of the file.

        Raises:
            OSError: something could not be written.
        """
        self.write(())
        os.fsync(self._file.fileno())
        return self.num_bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def metrics_file(path: str | Path, num_bytes: int | None = None) -> Iterator[MetricsFile]:
    """Open a MetricsFile and close it at the end; see there for arguments and errors."""
    file = MetricsFile(path, num_bytes)
    try:
        yield file
    finally:
        file.close()


def _whole_lines(path: str | Path, num_bytes: int) -> int:
    """Return the length of the complete lines within the first `num_bytes` of a file."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        return file.read(num_bytes).rfind(b"\n") + 1


def _written(value: float) -> str:
    """Return a number with nine digits, which every float32 survives."""
    return f"{value:.9g}" if not float(value).is_integer() else f"{value:.0f}"
