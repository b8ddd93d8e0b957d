"""A fixture for programs that continue a state in several ways, or whose scan moves keys under `vmap`."""

import jax
import pytest


@pytest.fixture
def keys_move():
    """Let keys be used more than once: JAX's checker takes the move of a vmapped scan's keys for a use of them."""
    with jax.debug_key_reuse(False):
        yield
