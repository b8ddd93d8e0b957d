"""Programs that run once."""

import jax
import jax.numpy as jnp

from purejaxppo._util.programs import is_tracing, jit_once


def test_a_program_that_runs_once_computes_the_same():
    assert jit_once(lambda x: x * 2.0)(jnp.float32(3.0)) == 6.0


def test_tracing_is_noticed_inside_a_jit_only():
    seen = []

    def noting(x):
        seen.append(is_tracing())
        return x

    noting(jnp.zeros(3))
    jax.vmap(noting)(jnp.zeros(3))
    jax.jit(noting)(jnp.zeros(3))
    assert seen == [False, False, True]
