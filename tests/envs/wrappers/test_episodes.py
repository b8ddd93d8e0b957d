"""Wrappers of episodes end them when they should."""

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, rollout

from purejaxppo.envs.wrappers.episodes import time_limit


def test_time_limit_truncates_counts_from_each_reset_and_leaves_terminations(key: jax.Array) -> None:
    env = time_limit(probes.scripted(terminate_at=(2,), truncate_at=()), 2)
    _, timesteps = play(env, [integer(0)] * 2)
    assert [bool(t.truncated) for t in timesteps] == [False, True]
    assert [bool(t.terminated) for t in timesteps] == [False, True]
    env = time_limit(probes.scripted(terminate_at=(), truncate_at=()), 4)
    actions = jnp.zeros((10, 1), jnp.int32).at[1, 0].set(3)  # an end of its own after two steps
    _, _, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(np.flatnonzero(ts.terminated[:, 0]), [1])
    np.testing.assert_array_equal(np.flatnonzero(ts.truncated[:, 0]), [5, 9])
    with pytest.raises(ValueError, match="at least 1"):
        time_limit(env, 0)
