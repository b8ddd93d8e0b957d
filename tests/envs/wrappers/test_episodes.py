"""Wrappers that end episodes or repeat steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, quick_jit, rollout

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.episodes import action_repeat, time_limit


def test_time_limit_truncates_counts_from_each_reset_and_leaves_terminations(key: jax.Array) -> None:
    env = time_limit(probes.scripted(terminate_at=(2,), truncate_at=()), 2)
    _, timesteps = play(env, [integer(0)] * 2)
    assert [bool(t.truncated) for t in timesteps] == [False, True]
    assert [bool(t.terminated) for t in timesteps] == [False, True]
    env = time_limit(probes.scripted(terminate_at=(), truncate_at=()), 4)
    actions = jnp.zeros((10, 1), jnp.int32).at[1, 0].set(3)  # it terminates after two steps
    _, _, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(np.flatnonzero(ts.terminated[:, 0]), [1])
    np.testing.assert_array_equal(np.flatnonzero(ts.truncated[:, 0]), [5, 9])
    with pytest.raises(ValueError, match="from 1 to"):
        time_limit(env, 0)


@pytest.mark.parametrize("limit", [0, -1, 2**31, 2.5, True])
def test_a_time_limit_is_a_count_that_fits_into_32_bits(limit: Any) -> None:
    for wrapper in (time_limit, action_repeat):
        with pytest.raises(ValueError, match=r"must be an integer from 1 to 2147483647, not"):
            wrapper(probes.endless(), limit)


def test_action_repeat_adds_rewards_up_and_stops_at_the_end(key: jax.Array) -> None:
    inner = probes.scripted(terminate_at=(), truncate_at=(5,), random_start=False)
    env = action_repeat(inner, 3)
    _, timesteps = play(env, [integer(1), integer(2)])
    # The reward of step t for action a is 100 t + a.
    assert [float(t.reward) for t in timesteps] == [603, 904]
    assert [bool(t.truncated) for t in timesteps] == [False, True]
    np.testing.assert_array_equal([t.obs[1] for t in timesteps], [3, 5])
    np.testing.assert_array_equal(timesteps[1].final_obs, timesteps[1].obs)
    assert action_repeat(inner, 1) is inner
    _, _, _, ts = rollout(env, jnp.zeros((4, 2), jnp.int32), key)
    np.testing.assert_array_equal(ts.truncated[:, 0], [False, True, False, True])


def test_repeated_steps_use_different_keys() -> None:
    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        obs = jnp.append(state[1:], jax.random.uniform(key))
        return obs, TimeStep(obs, jnp.float32(0), jnp.bool_(False), jnp.bool_(False), obs)

    env = Env(lambda key: (jnp.zeros(4), jnp.zeros(4)), step, box(0, 1, (4,)), Discrete(2))
    _, (timestep,) = play(action_repeat(env, 4), [integer(0)])
    assert len(np.unique(timestep.obs)) == 4


def test_a_state_with_typed_keys_can_be_repeated() -> None:
    env = action_repeat(probes.masked(num_steps=4), 2)
    check_env(env)
    state, obs = env.reset(jax.random.key(0))
    _, timestep = quick_jit(env.step)(jax.random.key(1), state, jnp.argmax(obs["observation"]).astype(jnp.int32))
    assert timestep.obs["observation"].shape == (6,)
