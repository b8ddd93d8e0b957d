"""Initialization: orthonormal, Haar, the Q of QR, one draw, no LAPACK call under vmap; the moments of LeCun's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pp
from purejaxppo.networks.initializers import batched_init, draw_orthonormal, gram_schmidt, initial_kernel, orthogonal


@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (64, 2), (256, 17), (3, 3, 4, 16), (1, 1), (7, 1), (1, 7)])
def test_kernels_are_orthogonal_to_rounding(shape, key):
    kernel = np.asarray(orthogonal(2**0.5)(key, shape)).reshape(-1, shape[-1])
    gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
    np.testing.assert_allclose(gram, 2.0 * np.eye(len(gram)), atol=3e-6)


@pytest.mark.parametrize("shape", [(40, 24), (300, 300), (400, 321)])  # column by column, and in panels
def test_gram_schmidt_is_the_q_of_qr_with_positive_diagonal(shape, key):
    a = jax.random.normal(key, shape)
    q, r = np.linalg.qr(np.asarray(a, np.float64))
    np.testing.assert_allclose(gram_schmidt(a), q * np.sign(np.diag(r)), atol=2e-5)


@pytest.mark.parametrize(("rows", "columns"), [(64, 32), (512, 300)])
def test_nearly_parallel_columns_stay_orthogonal(rows, columns, key):
    base, noise = jax.random.split(key)
    a = jax.random.normal(base, (rows, 1)) + 1e-2 * jax.random.normal(noise, (rows, columns))
    q = np.asarray(gram_schmidt(a), np.float64)
    np.testing.assert_allclose(q.T @ q, np.eye(columns), atol=3e-6)


def test_uniform_over_orthogonal_matrices(key):
    """Of a Haar 3 x 3 matrix each entry has mean 0 and second moment 1/3; E[tr² Q] = 1."""
    q = jax.vmap(lambda k: orthogonal()(k, (3, 3)))(jax.random.split(key, 20_000))
    assert np.abs(np.mean(q, 0)).max() < 0.02
    np.testing.assert_allclose(np.mean(np.square(q), 0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(np.mean(np.trace(q, axis1=1, axis2=2) ** 2), 1.0, atol=0.05)  # E[tr² Q] = 1


def test_vmapped_init_has_no_batched_lapack_call(key):
    """The program does not contain the calls that deadlock on two cores."""
    init = jax.vmap(lambda k: orthogonal()(k, (64, 64)))
    keys = jax.random.split(key, 4)
    compiled = jax.jit(init).lower(keys).compile()
    assert 'custom_call_target="lapack' not in compiled.as_text()
    assert jnp.isfinite(compiled(keys)).all()


@pytest.mark.slow
def test_matrices_from_one_draw_are_uniform_and_independent(key):
    """Two 2 x 2 matrices and a 3 x 2 one: orthonormal, entries of mean 0 and second moment 1/m, uncorrelated."""
    shapes = {"a": (2, 2), "b": (3, 2), "c": (2, 2)}
    init = batched_init(lambda key, draw: {name: orthogonal(1.0, draw)(key, shape) for name, shape in shapes.items()})
    for _ in range(2):  # traced again, and from the cache of eval_shape
        q = jax.vmap(init)(jax.random.split(key.copy(), 20_000))
    for name, (rows, columns) in shapes.items():
        gram = jnp.einsum("sij,sik->sjk", q[name], q[name], precision="highest")
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(columns), gram.shape), atol=3e-6)
        np.testing.assert_allclose(np.mean(q[name], 0), 0.0, atol=0.02)
        np.testing.assert_allclose(np.mean(np.square(q[name]), 0), 1 / rows, atol=0.01)
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        pairs = jnp.einsum("sij,skl->ijkl", q[one], q[other], precision="highest") / 20_000
        assert np.abs(pairs).max() < 0.02


def test_each_matrix_from_one_draw_is_the_q_of_its_values(key):
    """Matrices with equally many rows share one padded loop; each is what a separate loop would give."""
    shapes = [(6, 6), (6, 1), (9, 4), (6, 3), (6, 6)]
    ours = batched_init(lambda key, draw: [orthogonal(1.0, draw)(key, shape) for shape in shapes])(key.copy())
    numbers = np.asarray(jax.random.normal(jax.random.split(key)[1], (36 + 36 + 6 + 36 + 18,)))
    ends = {0: (0, 36), 4: (36, 72), 1: (72, 78), 2: (78, 114), 3: (114, 132)}  # equal shapes next to each other
    for i, shape in enumerate(shapes):
        a = numbers[slice(*ends[i])].reshape(shape)
        q, r = np.linalg.qr(a.astype(np.float64))
        np.testing.assert_allclose(ours[i], q * np.sign(np.diag(r)), atol=2e-5)


@pytest.mark.parametrize(("name", "limit"), [("lecun_uniform", 3**0.5), ("lecun_normal", 2 / 0.87962566103423978)])
@pytest.mark.parametrize("shape", [(50, 4000), (3, 3, 4, 2000)])
def test_lecun_kernels_have_mean_zero_and_variance_one_over_inputs(name, limit, shape, key):
    """The largest entry of a uniform is √3 deviations, that of a normal truncated at ±2 2 / √Var[x | |x| < 2]."""
    kernel = np.asarray(initial_kernel(name, 0.01, draw_orthonormal)(key, shape), np.float64).reshape(-1, shape[-1])
    scaled = kernel * np.sqrt(len(kernel))
    assert np.abs(scaled.mean()) < 0.01
    np.testing.assert_allclose(np.mean(scaled**2), 1.0, atol=0.01)
    np.testing.assert_allclose(np.abs(scaled).max(), limit, rtol=2e-3)


def test_the_gain_is_that_of_orthogonal_kernels_only(key):
    kernel = np.asarray(initial_kernel("orthogonal", 0.01, draw_orthonormal)(key.copy(), (8, 3)))
    np.testing.assert_allclose(kernel.T @ kernel, 1e-4 * np.eye(3), atol=1e-9)
    one, other = (initial_kernel("lecun_uniform", gain, draw_orthonormal)(key.copy(), (8, 3)) for gain in (0.01, 1.0))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("rows", "columns", "zeros"), [(5, 3, 2), (400, 130, 150)])
def test_a_column_of_zeros_stays_zero(rows, columns, zeros, key):
    a = jnp.pad(jax.random.normal(key, (rows, columns)), ((0, 0), (0, zeros)))
    np.testing.assert_array_equal(gram_schmidt(a)[:, columns:], 0.0)
    np.testing.assert_allclose(gram_schmidt(a)[:, :columns], gram_schmidt(a[:, :columns]), atol=1e-6)


def test_an_initialization_without_matrices_draws_none(key):
    assert batched_init(lambda key, draw: jax.random.uniform(key, (3,)))(key).shape == (3,)


@pytest.mark.parametrize(("kind", "square"), [("mlp", 2), ("lstm", 18)])
def test_a_network_is_initialized_by_one_draw_and_one_loop_per_number_of_rows(kind, square, key):
    env = pp.make("CartPole-v1")
    text = str(jax.make_jaxpr(pp.make_network(env, pp.NetworkConfig(kind, (8, 8), rnn_size=8)).init)(key))
    loops = re.findall(r"f32\[(\d+),8,8\] = scan\[", text)
    assert (text.count("erf_inv"), len(loops)) == (1, 1)
    assert loops == [str(square + 4)]  # squares, gates among them; two first layers and two heads
