"""Files of named arrays that describe themselves: safetensors with a checksum inside, and nothing in them is trusted.

A file is 8 bytes of header length, a JSON header, and the arrays one after the other. Writing sorts everything, so that
equal contents give equal bytes; the `safetensors` package does not sort metadata. Reading checks the header against the
size of the file before it allocates memory for an array, and every byte against the checksum.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from jax.typing import ArrayLike

from purejaxppo._util.files import open_regular, write_atomic
from purejaxppo.training.array_file import SAFETENSORS_NAMES
from purejaxppo.training.errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes, as in safetensors
MAX_FILE = 2**62
PIECE = 1 << 20  # bytes read at a time for a checksum
DTYPES = {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in SAFETENSORS_NAMES.items()}


class Entry(NamedTuple):
    """An array of a file: its type, and its place."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # in the file, bytes
    size: int  # bytes


class Header(NamedTuple):
    """What a file says about itself."""

    entries: dict[str, Entry]  # sorted by name
    metadata: dict[str, str]


def write_arrays(path: str | Path, arrays: Mapping[str, ArrayLike], metadata: Mapping[str, str]) -> None:
    """Write named arrays and texts to `path`, replacing the file in one step.

    Args:
        path: the file to write.
        arrays: NumPy or JAX arrays by name.
        metadata: texts by name; "sha256" is added.
    """
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    header: dict[str, Any] = {}
    offset = 0
    for name, array in ordered.items():
        end = offset + array.nbytes
        header[name] = {
            "dtype": SAFETENSORS_NAMES[array.dtype.name],
            "shape": list(np.shape(arrays[name])),
            "data_offsets": [offset, end],
        }
        offset = end
    digest = _header_digest(header, metadata)
    for array in ordered.values():
        digest.update(array.tobytes())
    texts = {**metadata, "sha256": digest.hexdigest()}
    text = json.dumps({"__metadata__": dict(sorted(texts.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in ordered.values())]))


def read_header(path: str | Path) -> Header:
    """Read what a file says about itself; the arrays are not read.

    Raises:
        CheckpointError: the file is missing, is no regular file, or is damaged.
    """
    with _opened(path) as file:
        return _parse_header(path, file)


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read all arrays and texts of a file, and check every byte.

    Raises:
        CheckpointError: the file is missing, is no regular file, or is damaged.
    """
    with _opened(path) as file:
        header = _parse_header(path, file)
        _verify(path, file, header)
        arrays = {}
        for name, entry in header.entries.items():
            file.seek(entry.start)
            arrays[name] = np.ndarray(entry.shape, entry.dtype, file.read(entry.size))
        return arrays, header.metadata


def verify(path: str | Path) -> None:
    """Check every byte of a file without keeping it in memory.

    Raises:
        CheckpointError: the file is missing, is no regular file, or is damaged.
    """
    with _opened(path) as file:
        _verify(path, file, _parse_header(path, file))


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open_regular(path, MAX_FILE)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the path
        raise CheckpointError(f"{str(path)!r}: cannot be read: {error}") from None


def _parse_header(path: str | Path, file: BinaryIO) -> Header:
    """Read the header and check that the arrays fill the rest of the file exactly."""
    damaged = CheckpointError(f"{path}: damaged or cut short, or no safetensors file")
    total = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if total < 8 or length > min(total - 8, MAX_HEADER):
        raise damaged
    try:
        parsed = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
        metadata = parsed.pop("__metadata__", {})
        entries = {name: _parse_entry(parsed[name], 8 + length) for name in sorted(parsed)}
        texts = all(isinstance(text, str) for text in metadata.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise damaged from None
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != end:
            raise damaged
        end += entry.size
    if end != total or not texts:
        raise damaged
    return Header(entries, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; a key that occurs twice is a ValueError."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)


def _parse_entry(entry: Mapping[str, Any], data_start: int) -> Entry:
    """Return the entry of an array; ValueError, KeyError or TypeError if it is malformed."""
    dtype = DTYPES[entry["dtype"]]
    shape = entry["shape"]
    start, end = entry["data_offsets"]
    numbers = [*shape, start, end]
    if any(type(x) is not int or x < 0 for x in numbers) or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError
    return Entry(tuple(shape), dtype, data_start + start, end - start)


def _header_digest(header: Mapping[str, Any], metadata: Mapping[str, str]) -> "hashlib._Hash":
    """Return a SHA-256 over names, types and texts, to which the bytes of the arrays are added in order of names."""
    about = [[name, header[name]["dtype"], list(header[name]["shape"])] for name in sorted(header)]
    texts = {name: text for name, text in sorted(metadata.items()) if name != "sha256"}
    return hashlib.sha256(json.dumps([about, texts]).encode())


def _verify(path: str | Path, file: BinaryIO, header: Header) -> None:
    """Raise CheckpointError if the content does not match the checksum."""
    about = {name: {"dtype": SAFETENSORS_NAMES[e.dtype.name], "shape": e.shape} for name, e in header.entries.items()}
    digest = _header_digest(about, header.metadata)
    for entry in header.entries.values():
        file.seek(entry.start)
        for start in range(0, entry.size, PIECE):
            digest.update(file.read(min(PIECE, entry.size - start)))
    if header.metadata.get("sha256") != digest.hexdigest():
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
