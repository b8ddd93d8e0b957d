"""Keep a policy on disk: parameters, observation statistics, spaces, and the settings that acting needs, in one file.

The format is safetensors, which other programs can read. Equal policies give equal bytes. Loading executes no code.
`docs/checkpoints.md` lists the texts in a file, and says which versions read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from purejaxppo._util.aliases import Params, PyTree
from purejaxppo._util.version import __version__
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.config.toml import dump_toml, parse_toml
from purejaxppo.envs.space_text import read_space, write_space
from purejaxppo.envs.spaces import Space
from purejaxppo.functional.running_stats import RunningMoments
from purejaxppo.training.arguments import check_policy
from purejaxppo.training.described_arrays import Entry, read_arrays, read_header, verify, write_arrays
from purejaxppo.training.errors import CheckpointError
from purejaxppo.types import Algorithm, TrainState

FORMAT = "purejaxppo-policy-1"


class Policy(NamedTuple):
    """Parameters and observation statistics; accepted wherever a TrainState is used only for acting."""

    params: Params
    obs_moments: RunningMoments


class Spaces(NamedTuple):
    """The facts about an environment that acting needs."""

    observation_space: Space
    action_space: Space
    normalize_observations: bool


def save_policy(
    path: str | Path,
    state: TrainState | Policy,
    metadata: Mapping[str, str] | None = None,
    *,
    run: Run | None = None,
    algo: Algorithm | None = None,
) -> None:
    """Write `state.params` and `state.obs_moments` to `path`, replacing the file in one step.

    Args:
        path: the file to write.
        state: a TrainState or a Policy.
        metadata: texts to keep with the arrays.
        run: settings to keep with the arrays (`read_run`).
        algo: of `make_ppo`; its spaces are kept, so that `load` needs no environment.

    Raises:
        TypeError: `state` is neither.
    """
    check_policy(state, "save_policy")
    tensors = {name: np.asarray(leaf) for name, leaf in _named(Policy(state.params, state.obs_moments)).items()}
    texts = {**(metadata or {}), "format": FORMAT}
    if run is not None:
        texts |= run_metadata(run)
    if algo is not None:
        env = algo.env
        spaces = {
            "observation_space": write_space(env.observation_space),
            "action_space": write_space(env.action_space),
        }
        normalize = json.dumps(algo.config.normalize_observations)
        texts |= {**version_metadata(), **spaces, "normalize_observations": normalize}
    write_arrays(path, tensors, texts)


def run_metadata(run: Run) -> dict[str, str]:
    """Return what a policy file says about the run that it comes from: environment, settings, versions."""
    return {"env": run.env, "config": dump_toml(run), **version_metadata()}


def version_metadata() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide the numbers."""
    versions = {name: version(name) for name in ("flax", "jax", "jaxlib")}
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    return {"purejaxppo": __version__, "versions": listed}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the texts that were saved with a policy.

    Raises:
        CheckpointError: no such file, or no undamaged file that `save_policy` wrote.
    """
    metadata = _checked_format(path, read_header(path).metadata)
    verify(path)
    return metadata


def read_run(path: str | Path) -> Run:
    """Return the settings of the run that a policy comes from: all that is needed to make its environment and network.

    Raises:
        CheckpointError: as `read_metadata`, or the file keeps no settings that this version can read.
    """
    metadata = read_metadata(path)
    if "config" not in metadata:
        raise CheckpointError(f"{path}: keeps no settings; it was saved without `run`")
    try:
        run, problems = parse_toml(metadata["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: its settings cannot be read: {error}") from None
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        written_by = metadata.get("purejaxppo", "an unknown version")
        text = f"{path}: its settings, written by purejaxppo {written_by}, do not fit purejaxppo {__version__}"
        raise CheckpointError(f"{text}:\n{listed}")
    return run


def read_spaces(path: str | Path) -> Spaces | None:
    """Return the spaces that a policy file keeps, or None if it was saved without `algo`.

    Raises:
        CheckpointError: as `read_metadata`, or the spaces cannot be read.
    """
    metadata = read_metadata(path)
    if "observation_space" not in metadata:
        return None
    try:
        spaces = (read_space(metadata["observation_space"]), read_space(metadata["action_space"]))
        return Spaces(*spaces, json.loads(metadata["normalize_observations"]) is True)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its spaces cannot be read: {error}") from None


def load_policy(path: str | Path, algo: Algorithm) -> Policy:
    """Return the policy that `save_policy` wrote, for the environment and network of `algo`.

    Names, shapes and dtypes are compared before any array is read.

    Raises:
        CheckpointError: a missing or damaged file, or arrays other than those of `algo`'s network; all differences are
            listed.
    """
    state = jax.eval_shape(algo.init, jax.random.key(0), Hyperparams())
    return read_policy(path, Policy(state.params, state.obs_moments))


def read_policy(path: str | Path, policy: Policy) -> Policy:
    """Return the policy that `save_policy` wrote, of the names, shapes and dtypes of `policy`.

    Raises:
        CheckpointError: as `load_policy`.
    """
    expected = _named(policy)
    header = read_header(path)
    _checked_format(path, header.metadata)
    problems = _differences(expected, header.entries)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in sorted(problems))
        raise CheckpointError(f"{path}: not a policy of this network and environment; the file\n{listed}")
    tensors, _ = read_arrays(path)
    leaves = [jax.numpy.asarray(tensors[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(policy), leaves)


def _named(tree: PyTree) -> dict[str, Array]:
    """Return the leaves of a tree by name, such as "params/actor/kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _checked_format(path: str | Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the texts without the checksum; CheckpointError if the file holds no policy."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a policy of purejaxppo (expected format {FORMAT})")
    return {name: text for name, text in metadata.items() if name != "sha256"}


def _differences(expected: Mapping[str, Array], entries: Mapping[str, Entry]) -> list[str]:
    """List how the arrays of a file differ from those of a network: missing, unknown, other shapes or dtypes."""
    problems = [f"lacks {name}" for name in expected if name not in entries]
    problems += [f"has {name}, which the network does not have" for name in entries if name not in expected]
    for name in expected.keys() & entries.keys():
        want, have = expected[name], entries[name]
        if want.shape != have.shape:
            problems.append(f"has {name} of shape {have.shape}, the network {want.shape}")
        elif want.dtype != have.dtype:
            problems.append(f"has {name} as {have.dtype}, the network as {want.dtype}")
    return problems
