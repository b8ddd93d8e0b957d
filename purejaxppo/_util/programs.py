"""Programs that run once, for checks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import Tracer


def is_tracing() -> bool:
    """Return whether JAX is tracing the caller, so that values cannot be read."""
    return isinstance(jnp.zeros(()), Tracer)


def jit_once(function: Callable) -> Callable:
    """Jit a function that runs once and briefly: on a CPU it is not optimized, and compiles sooner."""
    options: dict | None = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)
