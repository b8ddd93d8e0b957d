"""The probe environments have their documented values and policies."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, quick_jit

from purejaxppo.envs.protocol import Env, TimeStep


def test_the_simulated_chain_has_the_exported_transition_matrix(key: jax.Array) -> None:
    tabular, env, size = probes.chain_tabular(), probes.chain(), 5
    keys = jax.random.split(key, (size, 2, 20_000))
    states, actions = jnp.arange(size, dtype=jnp.int32), jnp.arange(2, dtype=jnp.int32)
    step = jax.vmap(env.step, (0, None, None))
    step = jax.vmap(jax.vmap(step, (0, None, 0)), (0, 0, None))
    there, timesteps = quick_jit(step)(keys, states, actions)
    there = np.where(timesteps.terminated, size, there)
    counts = np.stack([(there == s).mean(-1) for s in range(size + 1)], -1)
    ended = 1 - tabular.transition.sum(2, keepdims=True)
    np.testing.assert_allclose(counts, np.concatenate([tabular.transition, ended], 2), atol=0.015)
    np.testing.assert_allclose(timesteps.reward[..., 0], tabular.reward, rtol=1e-6)


def test_the_chain_is_solved_exactly_by_policy_iteration() -> None:
    tabular, gamma = probes.chain_tabular(), 0.95
    best = max(
        float(tabular.start @ iterate_value(tabular, np.array(choice), gamma))
        for choice in itertools.product(range(2), repeat=5)
    )
    policy = tabular.best_policy(gamma)
    np.testing.assert_allclose(tabular.start @ tabular.value(policy, gamma), best, rtol=1e-9)
    # The task is not trivial: neither always left nor a random policy comes near.
    for poor in (np.eye(2)[np.zeros(5, int)], np.full((5, 2), 0.5)):
        assert tabular.start @ tabular.value(poor, gamma) < 0.7 * best


def iterate_value(tabular: probes.Tabular, choice: np.ndarray, gamma: float) -> np.ndarray:
    """V of a deterministic policy by 2000 sweeps."""
    value = np.zeros(5)
    for _ in range(2000):
        value = np.array(
            [tabular.reward[s, a] + gamma * tabular.transition[s, a] @ value for s, a in enumerate(choice)]
        )
    return value


def pay(env: Env, action: Any, num_envs: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return observation [N, D] and reward [N] of one step that ends the episode; action(obs) acts."""

    def one(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        key_reset, key_step = jax.random.split(key)
        env_state, obs = env.reset(key_reset)
        return obs, env.step(key_step, env_state, action(obs))[1]

    obs, timestep = quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(1), num_envs))
    assert np.asarray(timestep.terminated).all()
    return np.asarray(obs), np.asarray(timestep.reward)


@pytest.mark.parametrize("number", [0, 1])
def test_one_step_probes_have_their_documented_rewards(number: int) -> None:
    sign = 2 * number - 1
    assert (pay(probes.constant_reward(), lambda obs: integer(number))[1] == 1).all()
    assert (pay(probes.reward_by_action(), lambda obs: integer(number))[1] == sign).all()
    obs, reward = pay(probes.reward_is_observation(), lambda obs: integer(number))
    np.testing.assert_array_equal(reward, obs[:, 0])
    assert set(reward) == {-1, 1}
    obs, reward = pay(probes.reward_by_action_and_observation(), lambda obs: integer(number))
    np.testing.assert_array_equal(reward, sign * obs[:, 0])
    _, reward = pay(probes.reward_by_distance(0.25), lambda obs: jnp.full(1, 0.25 + number))
    np.testing.assert_array_equal(reward, -np.full(16, number))


def test_many_actions_probe_pays_the_share_hit() -> None:
    def wanted(obs: jax.Array, off: int) -> jax.Array:
        second = (jnp.argmax(obs[3:]) + off) % 4
        return jnp.stack([jnp.argmax(obs[:3]), second]).astype(jnp.int32)

    for off, share in ((0, 1.0), (1, 0.5)):
        obs, reward = pay(probes.reward_by_many_actions((3, 4)), partial(wanted, off=off))
        assert (reward == share).all()
        np.testing.assert_array_equal([obs[:, :3].sum(1), obs[:, 3:].sum(1)], np.ones((2, 16)))
    assert len(np.unique(obs, axis=0)) > 4


def test_longer_probes_have_their_documented_rewards_and_ends() -> None:
    obs, timesteps = play(probes.two_steps(), [integer(0)] * 2)
    assert [float(obs[0]), float(timesteps[0].obs[0])] == [0, 1]
    assert [float(t.reward) for t in timesteps] == [0, 1]
    assert [bool(t.terminated) for t in timesteps] == [False, True]
    _, timesteps = play(probes.endless(limit=3), [integer(0)] * 3)
    assert [float(t.reward) for t in timesteps] == [1, 1, 1]
    assert [bool(t.terminated) for t in timesteps] == [False] * 3
    assert [bool(t.truncated) for t in timesteps] == [False, False, True]
    env = probes.masked()
    state, obs = env.reset(jax.random.key(3))
    forbidden = jnp.argmin(obs["action_mask"]).astype(jnp.int32)
    assert not obs["action_mask"][forbidden]
    _, timestep = env.step(jax.random.key(4), state, forbidden)
    assert float(timestep.reward) == -10
    assert bool(timestep.terminated)
