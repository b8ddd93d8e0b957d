"""A metrics file contains every row once, after interruptions and disk errors."""

import numpy as np
import pytest

from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.tracking.metrics_file import metrics_file


def test_numbers_survive_the_file(tmp_path):
    values = np.random.default_rng(0).lognormal(0, 20, 200).astype(np.float32)
    rows = [{"a": float(value), "b": float("inf"), "c": i} for i, value in enumerate(values)]
    with metrics_file(tmp_path / "m.csv") as file:
        file.write(rows[:1])
        file.write([])
        file.write([*rows[1:], {"a": float("nan"), "b": -0.5, "c": 2**20}])
        columns = read_csv(tmp_path / "m.csv")  # on disk as soon as written
    assert np.array_equal(columns["a"][:200].astype(np.float32), values)
    assert np.isnan(columns["a"][200])
    assert columns["b"].tolist() == [np.inf] * 200 + [-0.5]
    assert columns["c"].tolist() == [*range(200), 2**20]


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "m.csv").write_text("precious")
    with pytest.raises(FileExistsError), metrics_file(tmp_path / "m.csv"):
        pass
    assert (tmp_path / "m.csv").read_text() == "precious"


def test_a_file_is_continued_behind_its_first_bytes(tmp_path):
    """Rows beyond the given length, and an incomplete line, are removed; no row occurs twice."""
    path = tmp_path / "m.csv"
    with metrics_file(path) as file:
        file.write([{"a": 1, "b": 0.5}])
        length = file.sync()
        file.write([{"a": 2, "b": 0.5}])
    with metrics_file(path, length) as file:
        file.write([{"b": 0.25, "a": 2}])
    assert path.read_text() == "a,b\n1,0.5\n2,0.25\n"
    with metrics_file(path, length - 1) as file:
        assert file.num_bytes == 4
    with metrics_file(path, 10**6) as file:
        file.write([{"a": 7, "b": 8}])
    assert path.read_text() == "a,b\n7,8\n"


def test_only_regular_files_are_continued(tmp_path):
    with pytest.raises(FileNotFoundError), metrics_file(tmp_path / "none", 5):
        pass
    (tmp_path / "real").write_text("a\n1\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="not a regular file"), metrics_file(tmp_path / "link", 2):
        pass
    assert (tmp_path / "real").read_text() == "a\n1\n"


def test_rows_that_do_not_fit_on_the_disk_are_written_later(tmp_path):
    class FullDisk:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    with metrics_file(tmp_path / "m.csv") as file:
        file.write([{"a": 1}])
        file._file = FullDisk(file._file, 3)
        for row in (22222, 3):
            with pytest.raises(OSError, match="No space"):
                file.write([{"a": row}])
        assert file.num_bytes == 4
        file._file.room = 1000
        assert file.sync() == len("a\n1\n22222\n3\n")
    assert (tmp_path / "m.csv").read_text() == "a\n1\n22222\n3\n"
