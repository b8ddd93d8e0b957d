"""Encode network inputs as features: embeddings, convolutions and dense layers.

Called inside a compact linen method. All arrays have one leading axis B, since XLA's CPU backend takes twice as long
for dense layers with two.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.networks.cpu_layers import Dense, PatchConvolution
from purejaxppo.networks.initializers import DrawFn, initial_kernel
from purejaxppo.networks.inputs import Inputs, Symbols

Array = jax.Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": nn.gelu,
    "elu": nn.elu,
}

# Convolutions as (features, size, stride). Images of at least LARGE pixels a side get those of Mnih et al. 2015 (Nature
# 518, "Human-level control through deep reinforcement learning"), smaller ones that of Young and Tian 2019 (MinAtar,
# arXiv:1903.03176).
LARGE = 36

LARGE_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))

SMALL_CONVOLUTIONS = ((16, 3, 1),)

FEW_SYMBOLS = 64  # up to this size a table is read by a matrix product, whose gradient needs no scatter


def encode(inputs: Inputs, config: NetworkConfig, name: str, draw: DrawFn) -> Array:
    """Embed symbols, convolve images, and apply dense layers to everything.

    Args:
        inputs: arrays with one leading axis B.
        config: settings of the network.
        name: prefix of the layers: `name`_0, `name`_1, …, `name`_conv0_0, …, `name`_embedding0, ….
        draw: source of matrices with orthonormal columns for initialization.

    Returns:
        Features [B, hidden_sizes[-1]] in the compute dtype; without dense layers the concatenated inputs.
    """
    images, vectors = list(inputs.images), []
    for i, symbols in enumerate(inputs.symbols):
        embedded = _embed(symbols, config, f"{name}_embedding{i}")
        (images if symbols.convolve else vectors).append(embedded)
    pieces = [_convolve(image, config, f"{name}_conv{i}", draw) for i, image in enumerate(images)]
    pieces += [x.reshape(x.shape[0], math.prod(x.shape[1:])) for x in vectors]
    pieces += [] if inputs.vector is None else [inputs.vector]
    x = pieces[0]
    if len(pieces) > 1:
        x = jnp.concatenate([piece.astype(config.compute_dtype) for piece in pieces], axis=-1)
    for i, width in enumerate(config.hidden_sizes):
        kernel_init = initial_kernel(config.kernel_init, math.sqrt(2), draw)
        x = Dense(width, kernel_init=kernel_init, dtype=config.compute_dtype, name=f"{name}_{i}")(x)
        x = _activate(x, config, f"{name}_{i}")
    return x


def _embed(symbols: Symbols, config: NetworkConfig, name: str) -> Array:
    return Embedding(symbols.sizes, config.embedding_size, config.compute_dtype, name=name)(symbols.codes)


class Embedding(nn.Module):
    """Look up a learned vector for the symbol of each channel; the vectors of a position are concatenated.

    As in the encoders of symbolic grid worlds (BabyAI, Hui et al. 2020, arXiv:2007.12770, where the vectors are added).
    Tables start as standard normal.
    """

    sizes: tuple[int, ...]  # symbols of each channel
    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, codes: Array) -> Array:
        """Map codes int32 [..., C] to [..., C * features]."""
        vectors = []
        for c, size in enumerate(self.sizes):
            table = self.param(f"channel_{c}", nn.initializers.normal(1.0), (size, self.features), jnp.float32)
            vectors.append(_look_up(table.astype(self.dtype), codes[..., c]))
        return jnp.concatenate(vectors, axis=-1)


def _look_up(table: Array, codes: Array) -> Array:
    """Rows of a table [K, D] for codes int [...]: [..., D]."""
    if len(table) > FEW_SYMBOLS:
        return jnp.take(table, codes, axis=0, mode="clip")
    rows = jax.nn.one_hot(codes.reshape(-1), len(table), dtype=table.dtype) @ table
    return rows.reshape(*codes.shape, table.shape[1])


def _convolve(x: Array, config: NetworkConfig, name: str, draw: DrawFn) -> Array:
    """Images [B, H, W, C] -> features [B, D]."""
    large = min(x.shape[-3:-1]) >= LARGE
    for i, (width, size, stride) in enumerate(LARGE_CONVOLUTIONS if large else SMALL_CONVOLUTIONS):
        shape = {"kernel_size": (size, size), "strides": (stride, stride), "padding": "VALID"}
        kernel_init = initial_kernel(config.kernel_init, math.sqrt(2), draw)
        options = {"kernel_init": kernel_init, "dtype": config.compute_dtype, "name": f"{name}_{i}"}
        x = (nn.Conv(width, **shape, **options) if large else PatchConvolution(width, size, **options))(x)
        x = _activate(x, config, f"{name}_{i}")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _activate(x: Array, config: NetworkConfig, name: str) -> Array:
    """Apply layer normalization (Ba et al. 2016, arXiv:1607.06450) if it is on, and the activation."""
    if config.layer_norm:
        x = nn.LayerNorm(dtype=config.compute_dtype, name=f"{name}_norm")(x)
    return ACTIVATIONS[config.activation](x)
