"""Dense layers whose gradient a CPU finds quickly: the same products, with their operands laid out first.

The gradient of `x @ kernel` by the kernel is x^T dy, summed over the rows. XLA's CPU backend folds the transposition
into the product, and then takes two to ten times as long as for other products of that size. Transposing an operand
apart, behind a barrier, is cheaper: of a layer the input, laid out once for all that read it, as an actor and a critic
do; of a narrow one (a head) the other operand.

A call of the library that multiplies matrices takes longer than some products. So a head of a few columns on a few
rows is one product of the rows with a vector for each column, and a first layer with a few inputs, on the rows of one
step of a few environments, a sum that XLA works out in one go with what follows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

Array = jax.Array

FEW_COLUMNS, FEW_ROWS = 4, 256  # up to which a head is products with vectors

FEW_INPUTS, FEW_ENVS = 8, 16  # up to which a first layer is a sum

NARROW = 32  # columns below which not the input is laid out


def row_product(x: Array, kernel: Array) -> Array:
    """`x @ kernel`, rows x [B, D] and kernel [D, W] -> [B, W]; every derivative is that of the plain product."""
    if jax.default_backend() != "cpu":
        return x @ kernel
    if kernel.shape[1] <= FEW_COLUMNS and len(x) <= FEW_ROWS:
        return jnp.stack([x @ kernel[:, i] for i in range(kernel.shape[1])], axis=1)
    return _product(x, kernel)


@jax.custom_jvp
def _product(x: Array, kernel: Array) -> Array:
    small = kernel.shape[0] <= FEW_INPUTS and len(x) <= FEW_ENVS
    if small and x.dtype == jnp.float32:  # bfloat16 has to be summed in float32, as a product does
        terms = [x[:, i, None] * kernel[i][None] for i in range(kernel.shape[0])]
        return sum(terms[1:], terms[0])
    return x @ kernel


def _by_kernel(x: Array, change: Array) -> Array:
    """`x @ change`, so written that its transpose, x^T dy, is a product of operands that lie ready."""
    lay_out = jax.lax.optimization_barrier
    if change.shape[1] < NARROW:  # its transpose: (dy^T x)^T
        return lay_out(jax.lax.dot_general(lay_out(change.T), x, (((1,), (1,)), ((), ())))).T
    return jax.lax.dot_general(lay_out(x.T), change, (((0,), (0,)), ((), ())))


@partial(_product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y, terms = _product(x, kernel), []
    if not isinstance(dx, SymbolicZero):
        terms.append(_product(dx, kernel))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_by_kernel(x, dkernel))
    return y, sum(terms[1:], terms[0])


def _dot_general(x: Array, kernel: Array, dimension_numbers: Any, precision: Any = None, **kwargs: Any) -> Array:
    if x.ndim == 2 and precision is None and not kwargs:
        return row_product(x, kernel)
    return jax.lax.dot_general(x, kernel, dimension_numbers, precision=precision, **kwargs)


Dense = partial(nn.Dense, dot_general=_dot_general)  # flax's layer, with its parameters and its numbers
