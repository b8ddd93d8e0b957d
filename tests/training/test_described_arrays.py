"""A file of arrays is read only if its header fits its size and its bytes match the checksum."""

import json
import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from purejaxppo.training.described_arrays import read_arrays, read_header, verify, write_arrays
from purejaxppo.training.errors import CheckpointError

ARRAYS = {
    "b": np.arange(6, dtype=np.int32).reshape(2, 3),
    "a": np.array(1.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False]),
    "half": np.array([1.0, -2.0], ml_dtypes.bfloat16),
}


def test_written_arrays_are_read_back(tmp_path):
    write_arrays(tmp_path / "f", ARRAYS, {"text": "ä"})
    arrays, metadata = read_arrays(tmp_path / "f")
    assert metadata["text"] == "ä"
    assert list(arrays) == sorted(ARRAYS)
    for name, array in arrays.items():
        assert (array.dtype, array.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)
        np.testing.assert_array_equal(array, ARRAYS[name])
    write_arrays(tmp_path / "again", dict(reversed(ARRAYS.items())), {"text": "ä"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "f").read_bytes()


def write_raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


FOUR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
MALICIOUS = {
    "an empty file": lambda path: path.write_bytes(b""),
    "a header longer than the file": lambda path: write_raw(path, {}, length=10**6),
    "a header of 2⁶⁴ bytes": lambda path: write_raw(path, {}, length=2**64 - 1),
    "no JSON": lambda path: write_raw(path, b"hello"),
    "no object": lambda path: write_raw(path, [1, 2]),
    "deep JSON": lambda path: write_raw(path, b"[" * 100_000),
    "a name twice": lambda path: write_raw(path, b'{"a": %s, "a": %s}' % ((json.dumps(FOUR).encode(),) * 2), bytes(4)),
    "an array of 10¹² elements": lambda path: write_raw(path, {"a": FOUR | {"shape": [10**12]}}, bytes(4)),
    "a negative size": lambda path: write_raw(path, {"a": FOUR | {"shape": [-1]}}, bytes(4)),
    "a size that is no integer": lambda path: write_raw(path, {"a": FOUR | {"shape": [1.0]}}, bytes(4)),
    "a size that is a boolean": lambda path: write_raw(path, {"a": FOUR | {"shape": [True]}}, bytes(4)),
    "an unknown dtype": lambda path: write_raw(path, {"a": FOUR | {"dtype": "object"}}, bytes(4)),
    "arrays on top of each other": lambda path: write_raw(path, {"a": FOUR, "b": FOUR}, bytes(8)),
    "a gap between arrays": lambda path: write_raw(path, {"a": FOUR | {"data_offsets": [4, 8]}}, bytes(8)),
    "bytes after the arrays": lambda path: write_raw(path, {"a": FOUR}, bytes(5)),
    "metadata that is no text": lambda path: write_raw(path, {"__metadata__": {"a": 1}}),
    "metadata that is a list": lambda path: write_raw(path, {"__metadata__": [1]}),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n."),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link": lambda path: path.symlink_to("elsewhere"),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_file_is_refused(tmp_path, kind):
    MALICIOUS[kind](tmp_path / "f")
    with pytest.raises(CheckpointError, match="f: "):
        read_header(tmp_path / "f")


def test_a_sparse_file_is_verified_without_memory_for_it(tmp_path):
    """Its header declares 64 MB in a hole; the checksum is computed in pieces and refuses it."""
    size = 1 << 26
    write_raw(tmp_path / "f", {"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    os.truncate(tmp_path / "f", (tmp_path / "f").stat().st_size + size)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        verify(tmp_path / "f")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_path_that_is_none_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(tmp_path / "none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header("a\0b")
