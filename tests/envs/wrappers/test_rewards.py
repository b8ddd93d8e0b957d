"""Wrappers that scale and clip rewards change nothing else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.wrappers.rewards import reward_clip, reward_scale


def rewards(env: Any) -> list[float]:
    """Return rewards of three steps of `scripted`, which are 100, 201 and 302 without a wrapper."""
    return [float(t.reward) for t in play(env, [integer(a) for a in (0, 1, 2)])[1]]


def test_rewards_are_multiplied() -> None:
    env = reward_scale(probes.scripted(), 0.5)
    check_env(env)
    assert rewards(env) == [50, 100.5, 151]
    assert rewards(reward_scale(probes.scripted(), -1)) == [-100, -201, -302]


def test_rewards_are_clipped_on_both_sides() -> None:
    env = reward_clip(reward_scale(probes.scripted(), -1), 150)
    check_env(env)
    assert rewards(env) == [-100, -150, -150]
    assert rewards(reward_clip(probes.scripted())) == [1, 1, 1]
    assert rewards(reward_clip(probes.scripted(), float("inf"))) == [100, 201, 302]


def test_factors_and_limits_can_be_mapped_over() -> None:
    def first(x: jax.Array, wrapper: Any) -> jax.Array:
        env = wrapper(probes.scripted(), x)
        state, _ = env.reset(jax.random.key(0))
        return env.step(jax.random.key(1), state, integer(0))[1].reward

    for wrapper, expected in ((reward_scale, [200, 300]), (reward_clip, [2, 3])):
        np.testing.assert_array_equal(jax.vmap(lambda x, w=wrapper: first(x, w))(jnp.array([2.0, 3.0])), expected)


def test_invalid_factors_and_limits_are_refused() -> None:
    for bad in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="finite factor"):
            reward_scale(probes.chain(), bad)
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="limit above 0"):
            reward_clip(probes.chain(), bad)
