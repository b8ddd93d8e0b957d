"""Strict modes for every test: what JAX forgives silently is an error here."""

import os

# Compile time is most of the suite's time, and most of it goes without XLA's dear optimisations (and with the older
# loop emitters, whose programs run half as fast). The rest is what `prepare_cpu` sets. Set XLA_FLAGS to override, as
# `make test-slow` does.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters,xla_cpu_use_multi_output_fusion "
    "--xla_cpu_copy_insertion_use_region_analysis=true",
)

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
