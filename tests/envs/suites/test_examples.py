"""The environments of this package, compared with slow Python and with gymnax."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.registry import available, make

NAMES = ("CartPolePositions-v1", "Nim-v1", "King-v1")


def outcomes(env, state, action, keys=200):
    """Return (state, TimeStep) of one step from one state with many keys."""
    return jax.vmap(lambda key: env.step(key, state, action))(jax.random.split(jax.random.key(0), keys))


def test_the_suite_is_listed_and_made_by_name():
    assert available()["examples"] == NAMES
    for name in NAMES:
        env = make(name)
        check_env(env)
        assert env.name == name
        assert make(f"examples/{name}").action_space == env.action_space


def test_positions_are_those_of_cart_pole():
    """The same episode as gymnax's CartPole-v1, of which two of four components are observed."""
    seen, whole, key = make("CartPolePositions-v1", gravity=5.0), make("CartPole-v1", gravity=5.0), jax.random.key(3)

    @partial(quick_jit, static_argnums=0)
    def play(which, key):
        env = (seen, whole)[which]
        state, obs = env.reset(key)
        actions = jnp.arange(40) % 3 // 2

        def step(state, action):
            return env.step(jax.random.key(0), state, action)

        return obs, jax.lax.scan(step, state, actions)[1]

    (obs, steps), (all_obs, all_steps) = play(0, key), play(1, jax.random.clone(key))
    np.testing.assert_array_equal(obs, all_obs[np.array([0, 2])])
    np.testing.assert_array_equal(steps.obs, all_steps.obs[:, np.array([0, 2])])
    np.testing.assert_array_equal(steps.terminated, all_steps.terminated)
    assert steps.terminated.any()
    np.testing.assert_array_equal(seen.observation_space.low, whole.observation_space.low[[0, 2]])


def test_nim_is_won_from_every_start_and_masks_impossible_moves():
    env = make("Nim-v1", max_pile=7, max_take=2)
    starts, firsts = quick_jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 200))
    assert set(np.asarray(starts).tolist()) == {1, 2, 4, 5, 7}
    np.testing.assert_array_equal(firsts["observation"].argmax(-1), starts)
    np.testing.assert_array_equal(firsts["action_mask"], np.arange(1, 3) <= np.asarray(starts)[:, None])
    run = quick_jit(partial(outcomes, env))
    for pile, action in itertools.product(range(1, 8), range(2)):
        if action + 1 > pile:
            continue  # masked
        left, ts = run(jnp.int32(pile), jnp.int32(action))
        mine = pile - action - 1
        replies = {mine - reply for reply in range(1, min(mine, 2) + 1)} or {0}
        assert set(np.asarray(left).tolist()) == replies
        np.testing.assert_array_equal(ts.terminated, left == 0)
        np.testing.assert_array_equal(ts.reward, np.where(left != 0, 0, 1 if mine == 0 else -1))
        counts = np.bincount(left, minlength=8)[sorted(replies)] / 200
        np.testing.assert_allclose(counts, 1 / len(replies), atol=0.12)  # the opponent takes a random number
        if mine % 3 == 0 and mine:  # after any reply the next move leaves a multiple again, and finally 0
            assert all(0 < reply % 3 <= reply for reply in replies)


def test_king_moves_in_both_directions_at_once():
    env = make("King-v1", size=3, max_steps=4)
    states, firsts = quick_jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(2), 2000))
    king, target = np.asarray(states.env_state.king), np.asarray(states.env_state.target)
    pairs = np.bincount((np.concatenate([king, target], 1) * [27, 9, 3, 1]).sum(1), minlength=81)
    same = [27 * a + 9 * b + 3 * a + b for a in range(3) for b in range(3)]
    assert (pairs[same] == 0).all()
    assert (np.delete(pairs, same) > 5).all()  # 2000 / 72 = 28 each
    codes = np.eye(3)[np.concatenate([king, target], 1)].reshape(-1, 12)
    np.testing.assert_array_equal(firsts, codes)

    @quick_jit
    def walk(states):
        def step(state, _):
            board = state.env_state
            action = jnp.sign(board.target - board.king) + 1  # straight to the target
            return jax.vmap(env.step)(jax.random.split(jax.random.key(0), 2000), state, action)

        return jax.lax.scan(step, states, length=4)[1]

    ts = walk(states)
    distance = np.abs(king - target).max(1)
    np.testing.assert_array_equal(np.argmax(ts.terminated, axis=0) + 1, distance)
    assert (ts.reward == -1).all()
    np.testing.assert_array_equal(ts.truncated, (np.arange(4) == 3)[:, None].repeat(2000, 1))


def test_the_edge_of_the_board_is_not_left():
    env = make("King-v1")
    state, _ = env.reset(jax.random.key(0))
    corner = state._replace(env_state=state.env_state._replace(king=jnp.asarray([0, 7], jnp.int32)))
    after, _ = env.step(jax.random.key(1), corner, jnp.asarray([0, 2], jnp.int32))
    np.testing.assert_array_equal(after.env_state.king, [0, 7])


def test_best_return_of_the_king_as_documented():
    fields = list(itertools.product(range(8), repeat=2))
    distances = [max(abs(a - c), abs(b - d)) for a, b in fields for c, d in fields if (a, b) != (c, d)]
    assert np.mean(distances) == 3.75


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("Nim-v1", {"max_pyle": 3}, "max_pile"),
        ("Nim-v1", {"max_take": 1}, "max_take must be in"),
        ("Nim-v1", {"max_pile": 2}, "max_pile >= max_take"),
        ("Nim-v1", {"max_pile": 2**63 - 1}, "max_pile must be in"),
        ("Nim-v1", {"max_pile": 10**5000}, "max_pile must be in"),
        ("King-v1", {"size": 1}, "size must be in"),
        ("King-v1", {"size": 10**9}, "size must be in"),
        ("King-v1", {"size": 2.5}, "whole number"),
        ("King-v1", {"max_steps": 0}, "max_steps must be in"),
        ("CartPolePositions-v1", {"gravitty": 3.0}, "gravity"),
    ],
)
def test_invalid_parameters_are_refused(name, params, message):
    with pytest.raises(ValueError, match=message):
        make(name, **params)
