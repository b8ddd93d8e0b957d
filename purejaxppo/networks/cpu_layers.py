"""Dense and convolution layers with flax's parameters and values, arranged for XLA's CPU backend.

* The gradient of `x @ kernel` by the kernel is xᵀ dy, a sum over the rows. XLA's CPU backend folds the transposition
  into the product, which then takes two to ten times as long as other products of that size. Transposing an operand
  separately, behind an optimization barrier, is cheaper: the input of a wide layer, which is transposed once for all
  layers that read it (those of an actor and a critic), and the other operand of a narrow layer (a head).
* A call of the matrix library takes longer than some products. A head with few columns on few rows is therefore one
  matrix-vector product per column, and a first layer with few inputs, on the rows of one step of few environments, is
  a sum that XLA fuses with what follows.
* A convolution of few channels is one matrix product over all patches.

Other backends compute the plain product. A symbolic number of rows (`jax.export`) counts as many rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import PrecisionLike
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike

Array = jax.Array

# The most columns and rows of a head that is computed as matrix-vector products.
FEW_COLUMNS = 4
FEW_ROWS = 256

# The most inputs and rows of a first layer that is computed as a sum.
FEW_INPUTS = 8
FEW_ENVS = 16

NARROW = 32  # below this many columns the gradient is transposed instead of the input


def row_product(x: Array, kernel: Array) -> Array:
    """Compute `x @ kernel`; its derivatives of every order are those of the plain product.

    Args:
        x: [B, D].
        kernel: [D, W].

    Returns:
        [B, W].
    """
    if jax.default_backend() != "cpu":
        return x @ kernel
    if kernel.shape[1] <= FEW_COLUMNS and _has_at_most(x, FEW_ROWS):
        columns = (jax.lax.index_in_dim(kernel, i, axis=1, keepdims=False) for i in range(kernel.shape[1]))
        return jnp.stack([x @ column for column in columns], axis=1)
    return _product(x, kernel)


def _has_at_most(x: Array, rows: int) -> bool:
    """Whether `x` has a known number of rows, and at most `rows`."""
    return isinstance(x.shape[0], int) and x.shape[0] <= rows


@jax.custom_jvp
def _product(x: Array, kernel: Array) -> Array:
    small = kernel.shape[0] <= FEW_INPUTS and _has_at_most(x, FEW_ENVS)
    if small and x.dtype == jnp.float32:  # bfloat16 terms would be rounded one by one; a product sums in float32
        column, row = partial(jax.lax.slice_in_dim, x, axis=1), partial(jax.lax.slice_in_dim, kernel)
        terms = [column(i, i + 1) * row(i, i + 1) for i in range(kernel.shape[0])]
        return sum(terms[1:], terms[0])
    return x @ kernel


def _product_by_kernel(x: Array, tangent: Array) -> Array:
    """Compute `x @ tangent` so that its transpose, xᵀ dy, is a product of operands in row-major order."""
    lay_out = jax.lax.optimization_barrier
    if tangent.shape[1] < NARROW:  # its transpose: (dyᵀ x)ᵀ
        return lay_out(jax.lax.dot_general(lay_out(tangent.T), x, (((1,), (1,)), ((), ())))).T
    return jax.lax.dot_general(lay_out(x.T), tangent, (((0,), (0,)), ((), ())))


@partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple[Array, Array], tangents: tuple) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y, terms = _product(x, kernel), []
    if not isinstance(dx, SymbolicZero):
        terms.append(_product(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_product_by_kernel(x, dkernel))
    return y, sum(terms[1:], terms[0])


def _dot_general(
    x: Array, kernel: Array, dimension_numbers: tuple, precision: PrecisionLike = None, **kwargs: Any
) -> Array:
    if x.ndim == 2 and precision is None and not kwargs:
        return row_product(x, kernel)
    return jax.lax.dot_general(x, kernel, dimension_numbers, precision=precision, **kwargs)


Dense = partial(nn.Dense, dot_general=_dot_general)  # flax's layer, same parameters and values


class PatchConvolution(nn.Module):
    """Convolve with stride 1 and no padding by one matrix product over all patches; parameters as in `nn.Conv`.

    For few channels a convolution is slow on a CPU, and slower under `vmap`, which makes it a grouped convolution: an
    update of the MinAtar network takes a fifth of the time with this layer.
    """

    features: int
    size: int
    kernel_init: Callable[..., Array]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map images [..., H, W, C] to [..., H - size + 1, W - size + 1, features]."""
        rows, columns = (n - self.size + 1 for n in x.shape[-3:-1])
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (y.astype(self.dtype) for y in (x, kernel, bias))
        corners = [(i, j) for i in range(self.size) for j in range(self.size)]
        patches = jnp.concatenate([x[..., i : i + rows, j : j + columns, :] for i, j in corners], axis=-1)
        y = row_product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(patches.shape[-1], self.features))
        y = y.reshape(*patches.shape[:-1], self.features)
        return y + jnp.broadcast_to(bias, y.shape)
