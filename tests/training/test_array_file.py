"""A file of arrays is a safetensors file, and is read only as it was written."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from purejaxppo.training.array_file import (
    SAFETENSORS_NAMES,
    ArraySpec,
    DamagedFileError,
    file_header,
    file_size,
    read_arrays,
    spec_of,
    write_arrays,
)

ARRAYS = {
    "state/b": np.arange(6, dtype=np.int32).reshape(2, 3),
    "a": np.array([np.nan, -np.inf, -0.0], np.float64),
    "scalar": np.array(True),
    "empty": np.zeros((0, 4), np.float32),
    "half": np.array([1.0, -2.0], np.float16),
    "ä": np.arange(12, dtype=np.uint8).reshape(3, 4).T,
}
SPECS = {name: spec_of(array) for name, array in ARRAYS.items()}


@pytest.fixture
def written(tmp_path):
    return tmp_path / "f", write_arrays(tmp_path / "f", ARRAYS)


def test_arrays_are_read_back_bitwise(written):
    path, file = written
    found = read_arrays(path, SPECS, file.sha256)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert spec_of(found[name]) == SPECS[name]
        assert found[name].tobytes() == array.tobytes()


def test_another_reader_of_the_format_reads_the_same(written):
    found = load_file(written[0])
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_size_and_checksum_are_those_of_the_file(written):
    path, file = written
    content = path.read_bytes()
    assert file.num_bytes == len(content) == file_size(SPECS)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert content.startswith(file_header(SPECS))


@pytest.mark.parametrize("dtype", SAFETENSORS_NAMES)
def test_the_names_of_dtypes_have_their_size(dtype):
    """Such as F32: four bytes."""
    digits = "".join(c for c in SAFETENSORS_NAMES[dtype].partition("_")[0] if c.isdigit()) or "8"
    assert ArraySpec(np.dtype(dtype), (3, 5)).num_bytes == 15 * int(digits) // 8


def test_a_dtype_that_the_format_lacks_is_stored_as_bytes(tmp_path):
    array = np.array([[1.0, 0.5], [2.0, -4.0]], np.complex128)
    assert "complex128" not in SAFETENSORS_NAMES
    file = write_arrays(tmp_path / "f", {"z": array})
    raw = load_file(tmp_path / "f")["z"]
    assert (raw.dtype, raw.shape) == (np.uint8, (2, 2, 16))
    assert raw.tobytes() == array.tobytes()
    np.testing.assert_array_equal(read_arrays(tmp_path / "f", {"z": spec_of(array)}, file.sha256)["z"], array)


def test_the_data_begin_at_a_multiple_of_eight():
    for length in range(1, 20):
        assert len(file_header({"x" * length: ArraySpec(np.dtype("float32"), (2,))})) % 8 == 0


def test_every_flipped_bit_and_every_other_length_is_detected(written):
    path, file = written
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        for other in (bytes(damaged), content[:place]):
            path.write_bytes(other)
            with pytest.raises(DamagedFileError, match=r"is damaged|is cut short"):
                read_arrays(path, SPECS, file.sha256)
    path.write_bytes(content + b"\0")
    with pytest.raises(OSError, match="bytes; at most"):
        read_arrays(path, SPECS, file.sha256)


@pytest.mark.parametrize(
    "specs",
    [
        SPECS | {"a": ArraySpec(np.dtype("int64"), (3,))},
        SPECS | {"state/b": ArraySpec(np.dtype("int32"), (3, 2))},
        SPECS | {"half": ArraySpec(np.dtype(ml_dtypes.bfloat16), (2,))},
        dict(reversed(SPECS.items())),
    ],
)
def test_arrays_of_the_same_size_but_other_specs_are_refused(written, specs):
    path, file = written
    assert sum(spec.num_bytes for spec in specs.values()) == sum(spec.num_bytes for spec in SPECS.values())
    with pytest.raises(DamagedFileError):
        read_arrays(path, specs, file.sha256)


def test_an_existing_file_is_not_overwritten(written):
    path, _ = written
    content = path.read_bytes()
    with pytest.raises(FileExistsError):
        write_arrays(path, {})
    assert path.read_bytes() == content
