"""Compile quickly, and read traced functions: random numbers, inputs that they use, precision."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from purejaxppo._util.aliases import PyTree

DRAWS = ("random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform", "random_gamma")
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")

Program: TypeAlias = ClosedJaxpr


def quick_jit(function: Callable) -> Callable:
    """Compile a function that runs once or twice: without optimization that takes a third of the time on a CPU."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def traced(function: Callable, *args: PyTree) -> Program:
    """Trace a function from the beginning, without the help of JAX's caches for it."""
    return jax.make_jaxpr(lambda *args: function(*args))(*args)


def same_program(a: Program, b: Program) -> bool:
    """Return whether two traces are the same program with the same constants."""
    texts = [re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr)) for program in (a, b)]
    if texts[0] != texts[1] or len(a.consts) != len(b.consts):
        return False
    return all(_equal(x, y) for x, y in zip(a.consts, b.consts, strict=True))


def _equal(x: PyTree, y: PyTree) -> bool:
    if not hasattr(x, "dtype"):
        return True
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return np.array_equal(np.asarray(x), np.asarray(y), equal_nan=np.asarray(x).dtype.kind == "f")


def draws_random_numbers(program: Program) -> bool:
    """Return whether a program draws random numbers anywhere."""
    return any(eqn.primitive.name in DRAWS for eqn in _equations(program.jaxpr))


def computes_in_16_bits(program: Program) -> bool:
    """Return whether any result in a program is a floating-point number of 16 bits or fewer."""
    dtypes = {getattr(x.aval, "dtype", None) for eqn in _equations(program.jaxpr) for x in eqn.outvars}
    floating = [dtype for dtype in dtypes if dtype is not None and jnp.issubdtype(dtype, jnp.floating)]
    return any(jnp.finfo(dtype).bits <= 16 for dtype in floating)


def uses_input(program: Program, index: int) -> bool:
    """Return whether anything in a program reads its input of this index; an output that passes it on does not."""
    return _reads(program.jaxpr, index)


def _reads(jaxpr: Jaxpr, index: int) -> bool:
    variable = jaxpr.invars[index]
    for eqn in jaxpr.eqns:
        places = [i for i, x in enumerate(eqn.invars) if x is variable]
        if not places:
            continue
        inner = next(_inner(eqn), None)
        if eqn.primitive.name not in CALLS or inner is None or len(inner.invars) != len(eqn.invars):
            return True
        if any(_reads(inner, i) for i in places):
            return True
    return False


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """Yield the equations of a program and of all programs inside of it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _inner(eqn):
            yield from _equations(inner)


def _inner(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    for value in eqn.params.values():
        for x in value if isinstance(value, tuple | list) else (value,):
            if isinstance(x, ClosedJaxpr):
                yield x.jaxpr
            elif isinstance(x, Jaxpr):
                yield x
