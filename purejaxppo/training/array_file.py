"""Named arrays on disk in the safetensors format.

The header of a file follows from the names, dtypes and shapes of its arrays. A reader knows these beforehand, so it
compares the header instead of parsing it, and allocates nothing before the size of the file has been checked.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purejaxppo._util.files import open_regular

SAFETENSORS_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


class ArraySpec(NamedTuple):
    """Dtype and shape of one array."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the array in memory and on disk."""
        return math.prod(self.shape) * self.dtype.itemsize


class WrittenFile(NamedTuple):
    """Size and checksum of a file that was written."""

    num_bytes: int
    sha256: str


class DamagedFileError(Exception):
    """A file that is not what was written; the message says in what it differs."""


def spec_of(array: np.ndarray) -> ArraySpec:
    """Return dtype and shape of an array."""
    return ArraySpec(np.dtype(array.dtype), tuple(array.shape))


def file_header(specs: Mapping[str, ArraySpec]) -> bytes:
    """Return the safetensors header of arrays that are stored in the order of `specs`.

    Dtypes that the format does not know are stored as raw bytes along one more axis.
    """
    entries, offset = {}, 0
    for name, spec in specs.items():
        known = SAFETENSORS_NAMES.get(spec.dtype.name)
        shape = [*spec.shape] if known else [*spec.shape, spec.dtype.itemsize]
        end = offset + spec.num_bytes
        entries[name] = {"dtype": known or "U8", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data to begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def file_size(specs: Mapping[str, ArraySpec]) -> int:
    """Return the size in bytes of the file that holds arrays of these specs."""
    return len(file_header(specs)) + sum(spec.num_bytes for spec in specs.values())


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> WrittenFile:
    """Write `arrays` to a new file, through to the disk.

    Args:
        path: the file; it must not exist.
        arrays: arrays by name.

    Returns:
        Size and SHA-256 of the file.

    Raises:
        OSError: the file cannot be written.
    """
    digest = hashlib.sha256()
    with open(path, "xb") as file:

        def write(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)

        write(file_header({name: spec_of(array) for name, array in arrays.items()}))
        for array in arrays.values():
            write(_as_bytes(np.ascontiguousarray(array)))
        file.flush()
        os.fsync(file.fileno())
        return WrittenFile(file.tell(), digest.hexdigest())


def read_arrays(path: str | Path, specs: Mapping[str, ArraySpec], sha256: str) -> dict[str, np.ndarray]:
    """Read the arrays that `write_arrays` wrote.

    Args:
        path: the file.
        specs: dtype and shape of every array, in the order in which they were written.
        sha256: checksum of the file.

    Returns:
        The arrays by name.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        DamagedFileError: size, header or checksum differ.
    """
    header = file_header(specs)
    expected = len(header) + sum(spec.num_bytes for spec in specs.values())
    with open_regular(path, max_bytes=expected) as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected:
            raise DamagedFileError(f"{path} is cut short: {size:,} bytes instead of {expected:,}")
        if file.read(len(header)) != header:
            raise DamagedFileError(f"{path} is damaged: its header differs")
        digest = hashlib.sha256(header)
        arrays = {}
        for name, spec in specs.items():
            arrays[name] = np.empty(spec.shape, spec.dtype)
            data = _as_bytes(arrays[name])
            if file.readinto(data) != len(data):  # type: ignore[attr-defined]
                raise DamagedFileError(f"{path} was cut short while it was read")
            digest.update(data)
    if digest.hexdigest() != sha256:
        raise DamagedFileError(f"{path} is damaged: its content does not match its checksum")
    return arrays


def _as_bytes(array: np.ndarray) -> memoryview:
    """Return the memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data
