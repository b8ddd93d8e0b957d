"""Names for the pytrees that pass between rooms; all of them are pytrees of JAX arrays."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax

PRNGKey: TypeAlias = jax.Array  # [] a typed key, as of `jax.random.key`
Params: TypeAlias = Any  # parameters of a network, float32 leaves
OptState: TypeAlias = Any  # state of an optax transformation
Observation: TypeAlias = Any  # leaves [...], batched [N, ...] or [T, N, ...]
Action: TypeAlias = Any  # leaves [...], batched [N, ...] or [T, N, ...]
EnvState: TypeAlias = Any  # state of an environment, batched [N, ...]
RnnState: TypeAlias = Any  # recurrent state of a network, leaves [N, ...]; () for feed-forward networks
Distribution: TypeAlias = Any  # a distribution over actions, batched [N] or [T, N]
