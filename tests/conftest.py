"""Strict modes for every test: implicit conversions that JAX allows by default are errors."""

import gc
import os

# Most of the suite's time is compile time, and most of that goes into XLA's expensive optimizations. Without them, with
# the older fusion emitters and in one piece, programs compile quickly and run half as fast. Set XLA_FLAGS to override
# this, as `make test-slow` does.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

gc.set_threshold(100_000, 50, 1000)  # compiled programs are many live objects, and few are garbage

jax.config.update("jax_num_cpu_devices", 2)  # for tests of sharding; everything else runs on the first device
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.devices()  # starts JAX, so that a command line in a test cannot choose other devices


@pytest.fixture
def key() -> jax.Array:
    """An unused typed key."""
    return jax.random.key(0)
