"""Names for the objects that pass between rooms: pytrees of JAX arrays, and objects without a common class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

PRNGKey: TypeAlias = jax.Array  # [] a typed key, as of `jax.random.key`
PyTree: TypeAlias = Any  # any pytree of arrays; the place of use names the shape of its leaves
Shapes: TypeAlias = Any  # a pytree of `jax.ShapeDtypeStruct`
TreeDef: TypeAlias = Any  # the structure of a pytree, a `jax.tree_util.PyTreeDef`

# Of a network.
Params: TypeAlias = Any  # parameters, float32 leaves
OptState: TypeAlias = Any  # state of an optax transformation
RnnState: TypeAlias = Any  # recurrent state, leaves [N, ...]; () for feed-forward networks
Distribution: TypeAlias = Any  # a distribution over actions, batched [N] or [T, N]

# Of an environment.
EnvState: TypeAlias = Any  # its state, batched [N, ...]
Observation: TypeAlias = Any  # leaves [...], batched [N, ...] or [T, N, ...]
Action: TypeAlias = Any  # leaves [...], batched [N, ...] or [T, N, ...]
Mask: TypeAlias = Any  # an action mask (see `purejaxppo.envs.masks`), leaves [..., n]; None if there is none
Noise: TypeAlias = Any  # random inputs of one step or of T steps, leaves [N, ...] or [T, N, ...]
SuiteObject: TypeAlias = Any  # an object of a suite's package, which is imported on use and has no types here

Carry: TypeAlias = Any  # carry of a scan

Device: TypeAlias = Any  # a `jax.Device`

Value: TypeAlias = Any  # of a TOML or JSON file, or of a table
Tables: TypeAlias = Mapping[str, Any]  # content of a TOML or JSON file
Estimate: TypeAlias = Any  # a float, or an array of floats

# What users may pass as keys.
KeyLike: TypeAlias = jax.Array | np.ndarray | int  # a typed key, a raw key, or an integer seed
KeysLike: TypeAlias = jax.Array | np.ndarray | Sequence[KeyLike]  # one key for each of several seeds
