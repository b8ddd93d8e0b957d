"""Checkpoints: a whole TrainState and its hyperparameters in a folder of two files.

`arrays-<checksum>.safetensors` holds all arrays, and `manifest.json`, written last, describes them. A folder without
a manifest is not a checkpoint, so a crash at any instant leaves the previous checkpoint or the new one. Loading never
executes code from a file: names and sizes are compared with those of `algo.init` before anything is allocated, and no
path is taken from a file.
"""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import PyTree
from purejaxppo._util.files import open_regular, sync_folder, write_atomic
from purejaxppo.config.schema import Hyperparams
from purejaxppo.training.array_file import DamagedFileError, read_arrays, write_arrays
from purejaxppo.training.errors import CheckpointError, DamagedCheckpointError
from purejaxppo.training.loop import as_traced
from purejaxppo.training.manifest import (
    MANIFEST,
    Leaf,
    Manifest,
    arrays_name,
    encode_manifest,
    library_versions,
    read_manifest,
    reason,
    specs_of,
)
from purejaxppo.types import Algorithm, TrainState

LEFTOVER = re.compile(r"arrays-[0-9a-f]{16}\.safetensors|\.(arrays|manifest\.json)\.\d+\.tmp")
MAX_LISTED = 12  # differences that an error lists


class Checkpoint(NamedTuple):
    """Everything that determines the rest of a run, in the order in which `iterate` takes it."""

    algo: Algorithm
    state: TrainState
    hyperparams: Hyperparams  # float32 arrays


def save(
    path: str | Path,
    state: TrainState,
    hyperparams: Hyperparams | None = None,
    *,
    algo: Algorithm | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Save a whole run to the folder `path`, replacing the checkpoint that it holds.

    A crash at any instant leaves the old checkpoint or the new one. `restore` gives both arguments back, bit for bit.

    Args:
        path: a folder that holds a checkpoint, is empty, or does not exist.
        state: the state to save: of one run, or with leading axes as `sweep` and `jax.vmap` return it.
        hyperparams: the hyperparameters that the run continues with; None for the default ones.
        algo: the algorithm of the run; `restore` then refuses one with another config.
        details: JSON values to keep in the manifest.

    Raises:
        CheckpointError: `path` holds other files, or is no folder.
        OSError: the files cannot be written; an old checkpoint is untouched.
    """
    folder = Path(path)
    claim_checkpoint_folder(folder)
    arrays, leaves = _named_arrays({"state": state, "hyperparams": as_traced(hyperparams)})
    temporary = folder / f".arrays.{os.getpid()}.tmp"
    with suppress(FileNotFoundError):
        temporary.unlink()  # of a killed process that had our number
    try:
        written = write_arrays(temporary, arrays)
        manifest = Manifest(
            num_updates=int(np.max(arrays["state/num_updates"])) if "state/num_updates" in arrays else 0,
            batch_shape=arrays["state/num_updates"].shape if "state/num_updates" in arrays else (),
            leaves=leaves,
            num_bytes=written.num_bytes,
            sha256=written.sha256,
            settings=settings_of(algo) if algo is not None else {},
            versions=library_versions(),
            details=dict(details or {}),
        )
        text = encode_manifest(manifest)
        _check_arrays(temporary, manifest)  # the old checkpoint goes only after the new one has been read back
        os.replace(temporary, folder / arrays_name(manifest))
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    write_atomic(folder / MANIFEST, text)
    sync_folder(folder.parent)
    if encode_manifest(read_manifest(folder)) != text:
        raise DamagedCheckpointError(f"{folder / MANIFEST} is not what was written to it")
    _remove_leftovers(folder, keep=arrays_name(manifest))


def load_checkpoint(folder: Path, algo: Algorithm, manifest: Manifest | None = None) -> Checkpoint:
    """Load one checkpoint for `algo`, whose settings have been compared.

    Args:
        folder: the folder of the checkpoint.
        algo: the algorithm; its `init` gives the structure of the state.
        manifest: that of the folder, if it has been read.

    Raises:
        DamagedCheckpointError: the checkpoint is incomplete or damaged.
        CheckpointError: names, shapes or dtypes are not those of `algo`.
    """
    manifest = manifest or read_manifest(folder)
    template = _template(folder, algo, manifest)
    named = _named(template)
    problems = _leaf_problems(manifest, named)
    if problems:
        raise CheckpointError(listed(f"{folder}: not a checkpoint of this network and environment", problems))
    try:
        arrays = read_arrays(folder / arrays_name(manifest), specs_of(manifest.leaves), manifest.sha256)
    except (OSError, DamagedFileError) as error:
        raise DamagedCheckpointError(reason(error)) from None
    impls = {leaf.name: leaf.key_impl for leaf in manifest.leaves}
    leaves = [_rebuilt(arrays[name], impls[name], bool(getattr(leaf, "weak_type", False))) for name, leaf in named]
    tree = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return Checkpoint(algo, tree["state"], tree["hyperparams"])


def verify_checkpoint(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint after checking every byte of its files.

    Raises:
        DamagedCheckpointError: it is incomplete or damaged.
    """
    manifest = read_manifest(folder)
    _check_arrays(folder / arrays_name(manifest), manifest)
    return manifest


def claim_checkpoint_folder(folder: Path) -> None:
    """Make the folder of a checkpoint, or accept one that holds nothing else.

    Raises:
        CheckpointError: the folder holds other files, or is no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise CheckpointError(f"{folder}: is a file, not a folder") from None
    others = sorted(entry.name for entry in folder.iterdir() if not is_checkpoint_file(entry.name))
    if others:
        raise CheckpointError(f"{folder}: holds other files ({others[0]}); name a new or empty folder")


def settings_of(algo: Algorithm) -> dict[str, Any]:
    """Return the settings of an algorithm that a checkpoint records, as JSON values."""
    fields = {field.name: getattr(algo.config, field.name) for field in dataclasses.fields(algo.config)}
    return {"env": getattr(algo.env, "name", "") or "", "config": {name: plain_value(x) for name, x in fields.items()}}


def plain_value(value: Any) -> Any:
    """Return a setting as a JSON value."""
    if isinstance(value, tuple | list):
        return [plain_value(x) for x in value]
    if isinstance(value, bool | int | str) or value is None or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)


# ---- trees and arrays


def _named(tree: PyTree) -> list[tuple[str, jax.Array]]:
    """Return the leaves with their names, such as "state/params/actor/kernel"; every name occurs once."""
    named: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        while name in named:  # {"a": {"b": x}, "a/b": y}
            name += "'"
        named[name] = leaf
    return list(named.items())


def _named_arrays(tree: PyTree) -> tuple[dict[str, np.ndarray], tuple[Leaf, ...]]:
    """Copy a tree to the host: arrays by name, and their description."""
    named = [(name, leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)) for name, leaf in _named(tree)]
    impls = {name: str(jax.random.key_impl(leaf)) for name, leaf in named if _is_key(leaf)}
    on_device = [jax.random.key_data(leaf) if name in impls else leaf for name, leaf in named]
    arrays = {name: np.asarray(x) for (name, _), x in zip(named, jax.device_get(on_device), strict=True)}
    leaves = tuple(Leaf(name, x.dtype.name, x.shape, impls.get(name)) for name, x in arrays.items())
    return arrays, leaves


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _template(folder: Path, algo: Algorithm, manifest: Manifest) -> PyTree:
    """Return the structure of what a checkpoint of `algo` holds, with abstract arrays without leading axes."""
    impls = [leaf.key_impl for leaf in manifest.leaves if leaf.key_impl]
    impls = [leaf.key_impl for leaf in manifest.leaves if leaf.name == "state/key" and leaf.key_impl] + impls
    try:
        key = jax.random.key(0, impl=impls[0] if impls else None)
    except ValueError:
        raise CheckpointError(f"{folder}: this JAX knows no random numbers of the kind {impls[0]!r:.60}") from None
    numbers = as_traced(None)
    return {"state": jax.eval_shape(algo.init, key, numbers), "hyperparams": jax.eval_shape(lambda: numbers)}


def _leaf_problems(manifest: Manifest, expected: list[tuple[str, jax.Array]]) -> list[str]:
    """List what the leaves of a checkpoint lack or have otherwise."""
    found = {leaf.name: leaf for leaf in manifest.leaves}
    names = {name for name, _ in expected}
    problems = [f"it lacks {name}" for name in names - found.keys()]
    problems += [f"it has {name}, which is not part of the state" for name in found.keys() - names]
    for name, leaf in expected:
        if name not in found:
            continue
        have = found[name]
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        if _is_key(leaf) != (have.key_impl is not None) or have.dtype != data.dtype.name:
            kind = "random keys" if _is_key(leaf) else data.dtype.name
            problems.append(f"{name} is {'random keys' if have.key_impl else have.dtype}, not {kind}")
        elif name.startswith("state/") and have.shape != (*manifest.batch_shape, *data.shape):
            problems.append(f"{name} has shape {have.shape}, not {(*manifest.batch_shape, *data.shape)}")
    if not problems and tuple(found) != tuple(name for name, _ in expected):
        problems.append("its arrays are in another order")
    return sorted(problems)


def _check_arrays(path: Path, manifest: Manifest) -> None:
    """Raise DamagedCheckpointError if the file of arrays is not the one that the manifest describes."""
    digest = hashlib.sha256()
    try:
        with open_regular(path, manifest.num_bytes) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DamagedCheckpointError(reason(error)) from None
    if digest.hexdigest() != manifest.sha256:
        raise DamagedCheckpointError(f"{path} is damaged: its content does not match its checksum")


def _rebuilt(array: np.ndarray, key_impl: str | None, weak_type: bool) -> jax.Array:
    """Return the JAX array that was saved."""
    if key_impl is not None:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=key_impl)
    if not weak_type:
        return jnp.asarray(array)
    zero = jnp.asarray({"b": False, "i": 0, "u": 0, "c": 0j}.get(array.dtype.kind, 0.0))
    return jnp.broadcast_to(zero, array.shape).at[...].set(array)  # an update in place stays weakly typed


# ---- files and messages


def is_checkpoint_file(name: str) -> bool:
    """Return whether `save` makes files of this name."""
    return name == MANIFEST or LEFTOVER.fullmatch(name) is not None


def _remove_leftovers(folder: Path, keep: str) -> None:
    """Remove the arrays of replaced checkpoints and the files of saves that were killed."""
    for entry in folder.iterdir():
        if entry.name not in (keep, MANIFEST) and is_checkpoint_file(entry.name):
            with suppress(OSError):
                entry.unlink()


def listed(head: str, problems: Sequence[str]) -> str:
    """Return a message of one line and a list of problems."""
    shown = [f"  {problem}" for problem in problems[:MAX_LISTED]]
    rest = [f"  and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
    return "\n".join([head, *shown, *rest])
