"""Layers for a CPU: values and derivatives equal those of the plain product and convolution; their operations."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import params_of, sample_block, shapes
from probes import quick_jit

from purejaxppo.envs.spaces import box
from purejaxppo.networks.cpu_layers import (
    FEW_COLUMNS,
    FEW_ENVS,
    FEW_INPUTS,
    FEW_ROWS,
    NARROW,
    Dense,
    PatchConvolution,
    row_product,
)
from purejaxppo.networks.protocol import Network

MANY = FEW_ROWS + 3
SIZES = [(7, 6, 5), (7, 3, 5), (6, 5, 5), (MANY, 5, 3), (MANY, 4, 4), (MANY, 5, 1)]  # narrow, wide, square; many rows
SIZES += [(7, 5, 3), (6, 4, 4), (5, 3, 1), (1, 2, 2), (FEW_ROWS, 3, FEW_COLUMNS)]  # column by column
SIZES += [(7, 1, 5), (FEW_ENVS, FEW_INPUTS, 5), (FEW_ENVS, FEW_INPUTS + 1, 5), (FEW_ENVS + 1, FEW_INPUTS, 5)]  # a sum
SIZES += [(40, 50, NARROW), (40, 50, NARROW - 1)]  # of the gradient: the input is transposed, or the other operand


def arrays(rows, inputs, outputs):
    rng = np.random.default_rng(0)
    return [rng.normal(size=size) for size in ((rows, inputs), (inputs, outputs), (rows, outputs))]


def as_float32(*xs):
    return [jnp.asarray(x, jnp.float32) for x in xs]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "transform", [pytest.param(lambda f: f, marks=pytest.mark.slow, id="plain"), pytest.param(jax.jit, id="jit")]
)
def test_value_and_gradients_are_those_of_the_formulas(size, transform):
    """y = x k; by x: dy k^T; by k: x^T dy. NumPy, float64."""
    x, kernel, dy = arrays(*size)
    y, pull = transform(lambda *a: jax.vjp(row_product, *a))(*as_float32(x, kernel))
    by_x, by_kernel = transform(pull)(*as_float32(dy))
    for ours, formula in ((y, x @ kernel), (by_x, dy @ kernel.T), (by_kernel, x.T @ dy)):
        np.testing.assert_allclose(ours, formula, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_forward_mode_by_either_argument_and_by_both(size):
    x, kernel, _ = arrays(*size)
    dx, dkernel = x[::-1] * 0.5, kernel[::-1] * 2.0
    a, b, da, db = as_float32(x, kernel, dx, dkernel)

    @quick_jit
    def derivatives(a, b, da, db):
        by_x = jax.jvp(lambda x: row_product(x, b), (a,), (da,))[1]
        by_kernel = jax.jvp(lambda k: row_product(a, k), (b,), (db,))[1]
        return by_x, by_kernel, jax.jvp(row_product, (a, b), (da, db))[1]

    by_x, by_kernel, by_both = derivatives(a, b, da, db)
    np.testing.assert_allclose(by_x, dx @ kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_kernel, x @ dkernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_both, dx @ kernel + x @ dkernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jvp_of_the_gradient_as_trust_regions_take_it(size):
    """f = sum(y²)/2, y = x k: the gradient by k is x^T x k, and its derivative along v is x^T x v."""
    x, kernel, _ = arrays(*size)
    v = kernel[::-1] * 0.7
    a, b, c = as_float32(x, kernel, v)

    @quick_jit
    def derivatives(a, b, c):
        gradient = jax.grad(lambda k: 0.5 * (row_product(a, k) ** 2).sum())
        return jax.jvp(gradient, (b,), (c,))[1], jax.vjp(gradient, b)[1](c)[0]

    for derivative in derivatives(a, b, c):
        np.testing.assert_allclose(derivative, x.T @ x @ v, rtol=1e-4, atol=1e-4)


def test_under_vmap_over_kernels():
    x, kernel, dy = as_float32(*arrays(6, 4, 2))
    kernels = jnp.stack([kernel, 2.0 * kernel])

    def gradient(k):
        return jax.grad(lambda k: (row_product(x, k) * dy * k.sum()).sum())(k)

    one, both = jax.jit(gradient), jax.jit(jax.vmap(gradient))(kernels)
    np.testing.assert_allclose(both, jnp.stack([one(k) for k in kernels]), rtol=1e-5)


def test_the_layer_equals_that_of_flax():
    """Same parameters from the same key, same outputs, same gradients; rows with one, two or no leading axes."""
    ours, flax = Dense(3), nn.Dense(3)
    for shape in ((6, 4), (2, 3, 4), (4,)):
        x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
        own, params = (quick_jit(m.init)(jax.random.key(0), x) for m in (ours, flax))
        np.testing.assert_array_equal(own["params"]["kernel"], params["params"]["kernel"])
        grads = [quick_jit(jax.grad(lambda p, m=m, x=x: jnp.tanh(m.apply(p, x)).sum()))(params) for m in (ours, flax)]
        for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def dots(product, size):
    """Return the contracted axes of each product in the compiled gradient by both arguments."""
    x, kernel, dy = as_float32(*arrays(*size))
    text = jax.jit(lambda *a: jax.vjp(product, *a[:2])[1](a[2])).lower(x, kernel, dy).compile().as_text()
    return re.findall(r"lhs_contracting_dims=\{(\d)\}, rhs_contracting_dims=\{(\d)\}", text)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU is slow at them")
def test_a_few_columns_of_a_few_rows_are_products_with_vectors():
    def columns_of_products(rows, columns):
        text = jax.jit(row_product).lower(jnp.ones((rows, 64)), jnp.ones((64, columns))).compile().as_text()
        return re.findall(rf"f32\[{rows},?(\d*)\]\S* dot\(", text)

    assert set(columns_of_products(FEW_ROWS, FEW_COLUMNS)) <= {"", "1"}
    assert columns_of_products(FEW_ROWS + 1, FEW_COLUMNS) == [str(FEW_COLUMNS)]
    assert columns_of_products(FEW_ROWS, FEW_COLUMNS + 1) == [str(FEW_COLUMNS + 1)]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU is slow at them")
def test_a_first_layer_on_the_rows_of_one_step_is_no_product_at_all():
    def products(rows, inputs, dtype=jnp.float32):
        x, kernel = jnp.ones((rows, inputs), dtype), jnp.ones((inputs, 64), dtype)
        return jax.jit(row_product).lower(x, kernel).as_text().count("dot_general")

    assert products(FEW_ENVS, FEW_INPUTS) == 0
    assert products(FEW_ENVS, FEW_INPUTS, jnp.bfloat16) == 1  # a sum would round after every term
    assert products(FEW_ENVS + 1, FEW_INPUTS) == products(FEW_ENVS, FEW_INPUTS + 1) == 1


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU needs its operands laid out")
def test_no_product_of_the_gradient_contracts_the_rows_of_both_operands():
    slow = ("0", "0")
    for size in ((512, 64, 64), (512, 64, 2)):
        assert slow in dots(
            jnp.matmul, size
        )  # XLA does this with the plain product; otherwise these layers are not needed
        assert slow not in dots(row_product, size)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU needs its operands laid out")
def test_two_layers_with_the_same_input_transpose_it_once():
    x, a, b = (jnp.ones(shape) for shape in ((512, 96), (96, 64), (96, 64)))
    gradient = jax.grad(lambda a, b, x: (jnp.tanh(row_product(x, a)) * jnp.tanh(row_product(x, b))).sum(), (0, 1))
    text = jax.jit(gradient).lower(a, b, x).compile().as_text()
    assert len(re.findall(r"= f32\[96,512\]\{1,0\} fusion\(", text)) == 1


def test_other_backends_use_the_plain_product(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, kernel, _ = as_float32(*arrays(6, 4, 2))
    assert "optimization_barrier" not in str(jax.make_jaxpr(jax.grad(lambda k: row_product(x, k).sum()))(kernel))


def test_convolution_by_patches_is_convolution():
    """The same parameters, outputs and gradients as flax's own layer of this shape, in float32 and bfloat16."""
    image = sample_block(box(-1, 1, (6, 5, 4)), 2, 3)
    for dtype in (jnp.float32, jnp.bfloat16):
        options = {"kernel_init": nn.initializers.ones, "dtype": dtype}
        by_patches, convolution = PatchConvolution(7, 3, **options), nn.Conv(7, (3, 3), padding="VALID", **options)
        params = params_of(Network(lambda key, m=convolution: m.init(key, image), convolution.apply))

        @quick_jit
        def both(params, pair=(by_patches, convolution)):
            def loss(params, layer):
                return jnp.sum(jnp.sin(layer.apply(params, image).astype(jnp.float32)))

            return [(layer.apply(params, image), jax.grad(loss)(params, layer)) for layer in pair]

        found, expected = both(params)
        assert shapes(found) == shapes(expected)
        assert shapes(jax.eval_shape(by_patches.init, jax.random.key(0), image)) == shapes(params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.float64(a), np.float64(b), atol=1e-5 if dtype == jnp.float32 else 0.3)
