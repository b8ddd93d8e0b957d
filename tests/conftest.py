"""Strict modes for every test: what JAX forgives silently is an error here."""

import os

# Compile time is most of the suite's time: half of it goes without XLA's dear optimisations. Set XLA_FLAGS to override.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)  # for what is shared out among devices; all else is on the first
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def key() -> jax.Array:
    """A fresh typed key."""
    return jax.random.key(0)
