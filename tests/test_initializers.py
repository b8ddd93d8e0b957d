"""Orthogonal initialisation: orthonormal, Haar, the Q of QR, and alive under vmap on few cores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.initializers import gram_schmidt, orthogonal


@pytest.mark.parametrize("shape", [(4, 64), (64, 64), (64, 2), (256, 17), (3, 3, 4, 16), (1, 1), (7, 1), (1, 7)])
def test_kernels_are_orthogonal_to_rounding(shape, key):
    kernel = np.asarray(orthogonal(2**0.5)(key, shape)).reshape(-1, shape[-1])
    gram = kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T
    np.testing.assert_allclose(gram, 2.0 * np.eye(len(gram)), atol=3e-6)


def test_gram_schmidt_is_the_q_of_qr_with_positive_diagonal(key):
    a = jax.random.normal(key, (40, 24))
    q, r = np.linalg.qr(np.asarray(a, np.float64))
    np.testing.assert_allclose(gram_schmidt(a), q * np.sign(np.diag(r)), atol=2e-5)


def test_nearly_parallel_columns_stay_orthogonal(key):
    base, noise = jax.random.split(key)
    a = jax.random.normal(base, (64, 1)) + 1e-2 * jax.random.normal(noise, (64, 32))
    q = np.asarray(gram_schmidt(a), np.float64)
    np.testing.assert_allclose(q.T @ q, np.eye(32), atol=3e-6)


def test_uniform_over_orthogonal_matrices(key):
    """Of a Haar 3 x 3 matrix each entry has mean 0 and second moment 1/3, and rotations leave the law alone."""
    q = jax.vmap(lambda k: orthogonal()(k, (3, 3)))(jax.random.split(key, 20_000))
    assert np.abs(np.mean(q, 0)).max() < 0.02
    np.testing.assert_allclose(np.mean(np.square(q), 0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(np.mean(np.trace(q, axis1=1, axis2=2) ** 2), 1.0, atol=0.05)  # E[tr² Q] = 1


def test_vmapped_init_has_no_batched_lapack_call(key):
    """The calls that stop for ever on two cores are not in the program."""
    init = jax.vmap(lambda k: orthogonal()(k, (64, 64)))
    keys = jax.random.split(key, 4)
    compiled = jax.jit(init).lower(keys).compile()
    assert 'custom_call_target="lapack' not in compiled.as_text()
    assert jnp.isfinite(compiled(keys)).all()
