"""Tables of a sweep read back as they were written, as CSV and as Parquet."""

import math
import sys

import numpy as np
import pytest

from purejaxppo.config.errors import UsageError
from purejaxppo.sweeps.table import filled, read_table, write_tables

ROWS = [
    {"trial": 0, "label": "a", "seed": 3, "score": 1.5, "config.num_envs": 4, "config.target": True, "parent": 2.0},
    {"trial": 1, "label": "b, c", "seed": 4, "score": math.nan, "config.num_envs": 8.5, "config.target": "none"},
]


def test_csv_there_and_back(tmp_path):
    (file,) = write_tables(tmp_path, {"trials": ROWS})
    first, second = read_table(file)
    assert (first["trial"], first["label"], first["score"], first["parent"]) == (0, "a", 1.5, 2)
    assert (second["label"], second["parent"]) == ("b, c", "")
    assert math.isnan(second["score"])


def test_parquet_has_typed_columns(tmp_path):
    """Of a column with values of several kinds all are text; a missing value is null."""
    parquet = pytest.importorskip("pyarrow.parquet")
    _, file = write_tables(tmp_path, {"trials": ROWS}, parquet=True)
    table = parquet.read_table(file)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds == {
        "trial": "int64",
        "label": "string",
        "seed": "int64",
        "score": "double",
        "config.num_envs": "double",
        "config.target": "string",
        "parent": "double",
    }
    assert table["label"].to_pylist() == ["a", "b, c"]
    assert table["config.target"].to_pylist() == ["True", "none"]
    assert table["parent"].to_pylist() == [2.0, None]
    assert table["score"].to_pylist()[0] == 1.5


def test_without_pyarrow_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"purejaxppo\[parquet\]"):
        write_tables(tmp_path, {"trials": ROWS}, parquet=True)


def test_gaps_of_a_curve_are_filled_with_the_value_before():
    nan = math.nan
    np.testing.assert_array_equal(filled(np.array([nan, 2, nan, nan, 5, nan])), [2, 2, 2, 2, 5, 5])
