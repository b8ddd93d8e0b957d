"""Sequences are consecutive steps of one environment, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.batching.gather import to_device_layout
from purejaxppo.batching.sequences import to_sequences


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_sequences_are_consecutive_steps_of_one_environment(length):
    t, n = jnp.meshgrid(jnp.arange(8), jnp.arange(3), indexing="ij")
    t, n = np.asarray(to_sequences(t, length)), np.asarray(to_sequences(n, length))
    assert t.shape == (length, 24 // length)
    assert (n == n[:1]).all()
    assert (np.diff(t, axis=0) == 1).all()
    assert (t[0] % length == 0).all()
    assert len({*zip(t.ravel().tolist(), n.ravel().tolist(), strict=True)}) == 24


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_each_device_holds_the_sequences_of_its_environments(devices, length):
    """The columns are those of one device, in the order of `to_device_layout`."""
    x = jnp.arange(8 * 6 * 2).reshape(8, 6, 2)
    one, several = to_sequences(x, length), to_sequences(x, length, devices)
    order = jax.random.permutation(jax.random.key(0), one.shape[1])
    np.testing.assert_array_equal(several[:, to_device_layout(order, 6, devices)], one[:, order])
    envs = np.asarray(several)[0, :, 0].reshape(devices, -1) // 2 % 6
    for device, share in enumerate(envs):
        assert set(share // (6 // devices)) == {device}
