"""Packed leaves are gathered unchanged, and the columns of several devices are those of one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.batching.gather import NARROW, pack, to_device_layout


def gathered(batch, index):
    data, take = pack(batch)
    return take(data, index)


def test_gathered_leaves_are_bitwise_the_selected_columns():
    """Leaves of all widths, dtypes and lengths are gathered bitwise, including NaN and -0."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(2, 6, NARROW + 1)).astype(np.float32)
    odd = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-45], np.float32) * np.ones((2, 1), np.float32)
    batch = {
        "number": odd,
        "narrow": rng.normal(size=(2, 6, 4, 3)).astype(np.float32),
        "wide": wide,
        "action": rng.integers(-5, 5, (2, 6), np.int32),
        "flag": rng.random((2, 6)) < 0.5,
        "image": rng.integers(0, 255, (2, 6, 4, 4, 1), np.uint8),
        "rnn_state": rng.normal(size=(1, 6, 5)).astype(np.float32),  # of the first step only
        "half": rng.normal(size=(2, 6)).astype(np.float16),
        "nothing": (),
    }
    index = np.array([5, 0, 3, 3])
    taken = jax.jit(gathered)(jax.tree.map(jnp.asarray, batch), jnp.asarray(index))
    for name, x in batch.items():
        if name == "nothing":
            assert taken[name] == ()
            continue
        found = np.asarray(taken[name])
        assert found.dtype == x.dtype
        assert found.tobytes() == np.ascontiguousarray(x[:, index]).tobytes(), name


def test_images_are_gathered_in_their_own_dtype():
    """The program does not widen images to four bytes per pixel, and does not copy all of them."""
    batch = {"image": jnp.zeros((1, 64, 84, 84, 4), jnp.uint8), "value": jnp.zeros((1, 64))}
    compiled = jax.jit(gathered).lower(batch, jnp.arange(8)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 84 * 84 * 4 * 8


@pytest.mark.parametrize(("columns", "num_envs", "num_devices"), [(12, 6, 2), (12, 6, 3), (24, 4, 4), (6, 6, 1)])
def test_columns_of_one_device_are_found_by_device_time_and_environment(columns, num_envs, num_devices):
    """Column t * N + n of one device is, with n environments in order on D devices, the slow form below."""
    times, share = columns // num_envs, num_envs // num_devices
    layout = [(t, d * share + n) for d in range(num_devices) for t in range(times) for n in range(share)]
    place = {cell: column for column, cell in enumerate(layout)}
    expected = [place[t, n] for t in range(times) for n in range(num_envs)]
    order = np.random.default_rng(1).permutation(columns)
    found = to_device_layout(jnp.asarray(order), num_envs, num_devices)
    np.testing.assert_array_equal(found, np.array(expected)[order])
