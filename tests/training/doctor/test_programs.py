"""Traces show whether a function draws random numbers, reads an input, and is the same program twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.training.doctor.programs import draws_random_numbers, same_program, traced, uses_input

KEY = jax.random.key(0)
X = jnp.ones(3)


def noise(key, x):
    return x + jax.random.normal(key, (3,))


@pytest.mark.parametrize(
    ("function", "draws"),
    [
        (noise, True),
        (jax.jit(noise), True),
        (lambda key, x: jax.lax.cond(x[0] > 0, noise, lambda key, x: x, key, x), True),
        (lambda key, x: jax.lax.scan(lambda x, _: (noise(key, x), None), x, length=2)[0], True),
        (lambda key, x: jax.random.gamma(key, x), True),
        (lambda key, x: x * 2, False),
        (lambda key, x: (jax.random.split(key), jax.jit(jnp.sin)(x)), False),
    ],
)
def test_draws_are_found_at_any_depth(function, draws):
    with jax.debug_key_reuse(False):
        assert draws_random_numbers(traced(function, KEY, X)) is draws


@pytest.mark.parametrize(
    ("function", "uses"),
    [
        (lambda a, b: (a, b + 1), (False, True)),
        (jax.jit(lambda a, b: (a, b + 1)), (False, True)),
        (lambda a, b: jax.jit(jax.jit(lambda b, a: (a * 2, b)))(b, a), (True, False)),
        (lambda a, b: jax.nn.relu(b), (False, True)),
        (lambda a, b: jax.lax.scan(lambda c, _: (c + a, None), b, length=2)[0], (True, True)),
        (lambda a, b: jnp.ones(2), (False, False)),
    ],
)
def test_an_input_that_is_only_passed_on_is_not_used(function, uses):
    program = traced(function, X, X)
    assert (uses_input(program, 0), uses_input(program, 1)) == uses


def test_two_traces_of_a_pure_function_are_the_same_program():
    constant = np.array([np.nan, 1.0, 2.0], np.float32)

    def function(x):
        return jax.nn.relu(x) + jnp.asarray(constant) + jax.random.normal(jax.random.key(3), (3,))

    assert same_program(traced(function, X), traced(function, X))


def test_another_operation_constant_or_number_is_another_program():
    def adds(constant):
        return traced(lambda x: x + constant, X)

    assert not same_program(traced(jnp.sin, X), traced(jnp.cos, X))
    array = np.arange(3, dtype=np.float32)
    assert same_program(adds(array), adds(array.copy()))
    assert not same_program(adds(array), adds(array + 1))
    assert not same_program(adds(1.5), adds(2.5))


def test_a_function_that_counts_its_traces_is_another_program_each_time():
    count = iter(range(9))

    def function(x):
        return x + next(count)

    assert not same_program(traced(function, X), traced(function, X))
