"""The manifest of a checkpoint: the description of its arrays, and everything that is needed to check them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo._util.files import open_regular
from purejaxppo._util.version import __version__
from purejaxppo.training.array_file import ArraySpec, file_size
from purejaxppo.training.errors import DamagedCheckpointError

FORMAT = "purejaxppo-checkpoint-1"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


class Leaf(NamedTuple):
    """One array of a checkpoint."""

    name: str  # path in the tree, such as "state/params/actor/kernel"
    dtype: str
    shape: tuple[int, ...]
    key_impl: str | None  # implementation of the PRNG if the array is the data of typed keys


class Manifest(NamedTuple):
    """What a checkpoint says about itself."""

    num_updates: int
    batch_shape: tuple[int, ...]  # leading axes of every leaf of the state: () for one run, [H, S] for a sweep
    leaves: tuple[Leaf, ...]
    num_bytes: int  # of the file of arrays
    sha256: str  # of the file of arrays
    settings: dict[str, Any]  # the Config and the name of the environment; empty if they were not given
    versions: dict[str, str]
    details: dict[str, Any]  # for whoever saved it, such as the position in metrics.csv


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a checkpoint.

    Raises:
        DamagedCheckpointError: there is none, or it is not what was written.
    """
    path = folder / MANIFEST
    try:
        with open_regular(path, MAX_MANIFEST_BYTES) as file:
            data = file.read(MAX_MANIFEST_BYTES)
    except OSError as error:
        raise DamagedCheckpointError(reason(error)) from None
    try:
        given = json.loads(data)
        checksum = given.pop("checksum")
        if given["format"] != FORMAT:
            raise DamagedCheckpointError(f"{path}: format {given['format']!r:.60}; this version reads {FORMAT!r}")
        if checksum != _checksum(given) or data != _as_text(given | {"checksum": checksum}).encode():
            raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum")
        return _decode(given)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedCheckpointError):
            raise
        raise DamagedCheckpointError(f"{path} is damaged or was not written by `save`") from None


def arrays_name(manifest: Manifest) -> str:
    """Return the name of the file of arrays that belongs to a manifest."""
    return f"arrays-{manifest.sha256[:16]}.safetensors"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that the numbers of a run depend on."""
    found = {"purejaxppo": __version__}
    for name in ("jax", "jaxlib", "flax", "optax", "numpy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def specs_of(leaves: Iterable[Leaf]) -> dict[str, ArraySpec]:
    """Return dtype and shape of the arrays, by name.

    Raises:
        TypeError: a dtype is not one of plain numbers.
    """
    specs = {leaf.name: ArraySpec(np.dtype(leaf.dtype), leaf.shape) for leaf in leaves}
    if any(specs[leaf.name].dtype.name != leaf.dtype or specs[leaf.name].dtype.hasobject for leaf in leaves):
        raise TypeError("a dtype of plain numbers is expected")
    return specs


def encode_manifest(manifest: Manifest) -> str:
    """Return the text of a manifest."""
    leaves = [[leaf.name, leaf.dtype, list(leaf.shape), leaf.key_impl] for leaf in manifest.leaves]
    given = {"format": FORMAT, **manifest._asdict(), "batch_shape": list(manifest.batch_shape), "leaves": leaves}
    return _as_text(given | {"checksum": _checksum(given)})


def _as_text(given: Mapping[str, Any]) -> str:
    return json.dumps(given, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _checksum(given: Mapping[str, Any]) -> str:
    return hashlib.sha256(_as_text(given).encode()).hexdigest()


def _decode(given: Mapping[str, Any]) -> Manifest:
    """Return the manifest of parsed JSON.

    Raises:
        ValueError, LookupError, TypeError: a field is missing, or not of its type.
    """
    leaves = tuple(Leaf(_text(name), _text(dtype), _shape(shape), impl) for name, dtype, shape, impl in given["leaves"])
    manifest = Manifest(
        num_updates=_count(given["num_updates"]),
        batch_shape=_shape(given["batch_shape"]),
        leaves=leaves,
        num_bytes=_count(given["num_bytes"]),
        sha256=_text(given["sha256"]),
        settings=dict(given["settings"]),
        versions=dict(given["versions"]),
        details=dict(given["details"]),
    )
    if not re.fullmatch("[0-9a-f]{64}", manifest.sha256) or len({leaf.name for leaf in leaves}) != len(leaves):
        raise ValueError
    if file_size(specs_of(leaves)) != manifest.num_bytes:
        raise ValueError
    return manifest


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 64:
        raise TypeError
    return tuple(_count(size) for size in value)


def reason(error: Exception) -> str:
    """Return what went wrong with a file, and its path."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
