"""From observations of any space to features: casting, one-hot codes, convolutions, dense layers.

Observations reach the network as the environment gives them, in their own dtype, with leading axes [T, N]: what
turns them into float32 numbers is here, so that a rollout of images is stored in bytes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.envs.masks import action_mask
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space
from purejaxppo.networks.dense import Dense, row_product
from purejaxppo.networks.initializers import orthogonal

Array = jax.Array


# (features, size, stride) of the convolutions of images of at least LARGE pixels a side, and of smaller ones.
LARGE, LARGE_CONVOLUTIONS = 36, ((32, 8, 4), (64, 4, 2), (64, 3, 1))

SMALL, SMALL_CONVOLUTIONS = 3, ((16, 3, 1),)


class Views(NamedTuple):
    """Who sees what of an observation (or of an observation space); `critic is actor` where they see the same."""

    actor: Any
    critic: Any
    mask: Any  # the "action_mask" entry, None where there is none


def views(x: Any) -> Views:
    """Split an observation, or the space of it, into what the actor and the critic read and the action mask.

    A dict of "actor" and "critic" is an asymmetric observation: each reads its own entry. "action_mask" may stand in
    the dict itself or in the actor's entry; neither reads it as a feature. Anything else is read by both.
    """
    mask, x = action_mask(x), _without_mask(x)
    if not isinstance(x, dict) or set(x) != {"actor", "critic"}:
        return Views(x, x, mask)
    return Views(_without_mask(x["actor"]), _without_mask(x["critic"]), mask)


def _without_mask(x: Any) -> Any:
    return {name: entry for name, entry in x.items() if name != "action_mask"} if isinstance(x, dict) else x


class Inputs(NamedTuple):
    """An observation as float32 arrays."""

    vector: Array | None  # [..., D]; None where everything is an image
    images: tuple[Array, ...]  # [..., H, W, C] each


def is_image(space: Space) -> bool:
    """A Box [H, W] or [H, W, C] that the smallest convolution fits into."""
    return isinstance(space, Box) and len(space.shape) in (2, 3) and min(space.shape[:2]) >= SMALL


def has_image(space: Space) -> bool:
    """Whether any part of a space is an image."""
    return any(is_image(leaf) for leaf in jax.tree.leaves(space))


def to_inputs(space: Space, obs: Any, convolve: bool) -> Inputs:
    """An observation of `space` with leading axes [...], encoded: integers one-hot, arrays raveled, parts side by side.

    bool and integer arrays are cast, uint8 is divided by 255. Images stay images where `convolve` is true.
    """
    leaves, structure = jax.tree.flatten(space)
    vectors, images = [], []
    for leaf, x in zip(leaves, structure.flatten_up_to(obs), strict=True):
        if convolve and is_image(leaf):
            x = _as_float(x)
            images.append(x if len(leaf.shape) == 3 else x[..., None])
        else:
            vectors += _vectors(leaf, x)
    if not vectors:
        return Inputs(None, tuple(images))
    return Inputs(vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors, axis=-1), tuple(images))


def _vectors(space: Any, x: Array) -> list[Array]:
    """The pieces [..., D_i] of one leaf, float32."""
    if isinstance(space, Discrete | MultiDiscrete) and not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"an observation of {space} must arrive as integers, not as {x.dtype}: was it normalised?")
    if isinstance(space, Discrete):
        return [jax.nn.one_hot(x, space.n, dtype=jnp.float32)]
    if isinstance(space, MultiDiscrete):
        return [jax.nn.one_hot(x[..., i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)]
    x, rank = _as_float(x), len(space.shape)
    return [x if rank == 1 else x.reshape(*x.shape[: x.ndim - rank], math.prod(space.shape))]


def _as_float(x: Array) -> Array:
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) * (1.0 / 255.0)
    return x.astype(jnp.float32)


def encode(inputs: Inputs, config: NetworkConfig, name: str) -> Array:
    """Convolutions of the images, then dense layers over everything: [..., hidden_sizes[-1]] in the compute dtype.

    Called inside of a compact linen method; layers are called `name`_0, `name`_1, … and `name`_conv0_0, ….
    """
    parts = [_convolve(image, config, f"{name}_conv{i}") for i, image in enumerate(inputs.images)]
    if inputs.vector is not None:
        parts.append(inputs.vector)
    x = parts[0] if len(parts) == 1 else jnp.concatenate([part.astype(config.compute_dtype) for part in parts], axis=-1)
    for i, width in enumerate(config.hidden_sizes):
        kernel_init = orthogonal(math.sqrt(2))
        x = Dense(width, kernel_init=kernel_init, dtype=config.compute_dtype, name=f"{name}_{i}")(x)
        x = _activate(x, config, f"{name}_{i}")
    return x


def _convolve(x: Array, config: NetworkConfig, name: str) -> Array:
    """Images [..., H, W, C] -> features [..., D]."""
    lead = x.shape[:-3]
    large = min(x.shape[-3:-1]) >= LARGE
    for i, (width, size, stride) in enumerate(LARGE_CONVOLUTIONS if large else SMALL_CONVOLUTIONS):
        shape = {"kernel_size": (size, size), "strides": (stride, stride), "padding": "VALID"}
        options = {"kernel_init": orthogonal(math.sqrt(2)), "dtype": config.compute_dtype, "name": f"{name}_{i}"}
        x = (nn.Conv(width, **shape, **options) if large else PatchConvolution(width, size, **options))(x)
        x = _activate(x, config, f"{name}_{i}")
    return x.reshape(*lead, math.prod(x.shape[-3:]))


class PatchConvolution(nn.Module):
    """What `nn.Conv` with stride 1 and no padding is, parameters included, as one matrix product over all patches.

    For few channels, where a convolution is slow, and slower still under `vmap`, which makes it a grouped one: an
    update of the MinAtar network takes a fifth of the time on a CPU.
    """

    features: int
    size: int
    kernel_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Images [..., H, W, C] -> [..., H - size + 1, W - size + 1, features]."""
        rows, columns = (n - self.size + 1 for n in x.shape[-3:-1])
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (y.astype(self.dtype) for y in (x, kernel, bias))
        corners = [(i, j) for i in range(self.size) for j in range(self.size)]
        patches = jnp.concatenate([x[..., i : i + rows, j : j + columns, :] for i, j in corners], axis=-1)
        rows = row_product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(patches.shape[-1], self.features))
        y = rows.reshape(*patches.shape[:-1], self.features)
        return y + jnp.broadcast_to(bias, y.shape)


def _activate(x: Array, config: NetworkConfig, name: str) -> Array:
    if config.layer_norm:
        x = nn.LayerNorm(dtype=config.compute_dtype, name=f"{name}_norm")(x)
    return getattr(nn, config.activation)(x)
