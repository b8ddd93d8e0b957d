"""The policy on disk: parameters and observation statistics in one safetensors file, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo._util.files import write_atomic
from purejaxppo.config.schema import Hyperparams
from purejaxppo.functional.running_stats import RunningMoments
from purejaxppo.training.errors import CheckpointError

FORMAT = "purejaxppo-policy-1"


class Policy(NamedTuple):
    """What acting takes; stands wherever only `params` and `obs_moments` of a TrainState are read."""

    params: Any
    obs_moments: RunningMoments


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by name, such as "params/actor/kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _checksum(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, shapes, dtypes, numbers and metadata: safetensors itself does not notice a flipped bit."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_policy(path: str | Path, state: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write `state.params` and `state.obs_moments` to `path`, replacing it in one step.

    Args:
        path: the file to write.
        state: a TrainState or a Policy.
        metadata: texts to keep beside the numbers, such as the configuration.
    """
    from safetensors.numpy import save

    policy = Policy(state.params, state.obs_moments)
    tensors = {name: np.asarray(leaf) for name, leaf in _named(policy).items()}
    texts = {**(metadata or {}), "format": FORMAT}
    write_atomic(path, save(tensors, {**texts, "sha256": _checksum(tensors, texts)}))


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the texts that `save_policy` put beside the numbers.

    Raises:
        CheckpointError: no such file, or not one that `save_policy` wrote.
    """
    return _read(path)[1]


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged or cut short, or no safetensors file ({error})") from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a policy of purejaxppo (expected format {FORMAT})")
    if metadata.pop("sha256", "") != _checksum(tensors, metadata):
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    return tensors, metadata


def load_policy(path: str | Path, algo: Any) -> Policy:
    """Return the policy that `save_policy` wrote, for the environment and network of `algo`.

    Raises:
        CheckpointError: a missing or damaged file, or names, shapes or dtypes that are not those of `algo`'s
            network; all of them are listed.
    """
    tensors, _ = _read(path)
    state = jax.eval_shape(algo.init, jax.random.key(0), Hyperparams())
    policy = Policy(state.params, state.obs_moments)
    expected = _named(policy)
    problems = [f"lacks {name}" for name in expected if name not in tensors]
    problems += [f"has {name}, which the network has not" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        want, have = expected[name], tensors[name]
        if want.shape != have.shape:
            problems.append(f"has {name} of shape {have.shape}, the network {want.shape}")
        elif want.dtype != have.dtype:
            problems.append(f"has {name} as {have.dtype}, the network as {want.dtype}")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems))
        raise CheckpointError(f"{path}: not a policy of this network and environment; the file\n{listed}")
    leaves = [jax.numpy.asarray(tensors[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(policy), leaves)
