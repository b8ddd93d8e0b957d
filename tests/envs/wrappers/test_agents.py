"""Agents folded into the batch axis, and frozen opponents, compared with the joint environment."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from purejaxppo.envs.auto_reset import RESETS, auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.families import first_params, parametrized
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.agents import OpponentParams, fold_agents, frozen_opponent
from purejaxppo.envs.wrappers.rewards import reward_scale

AGENTS = 3


def sums(loose: bool = False) -> Env:
    """Make a team of three that observes episode, agent number and time; the reward is action + time."""

    def observe(start: Any, time: Any) -> Any:
        rows = [jnp.stack([start, jnp.float32(a), time.astype(jnp.float32)]) for a in range(AGENTS)]
        return jnp.stack(rows)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        start = jax.random.uniform(key)
        return (start, jnp.int32(0)), observe(start, jnp.int32(0))

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        start, time = state[0], state[1] + 1
        obs = observe(start, time)
        reward = action.astype(jnp.float32) + 10 * time.astype(jnp.float32)
        end = time == 4 if not loose else 1.0 * (time == 4)
        info = {"time": time.astype(jnp.float32)}
        return (start, time), TimeStep(obs, reward, end, jnp.bool_(False) if not loose else 0, obs, info)

    return Env(reset, step, box(-np.inf, np.inf, (3,)), Discrete(5), "Sums")


def run(vec: VecEnv, actions: Any, key: jax.Array) -> tuple[Any, Any, TimeStep]:
    """Return (first obs, last state, TimeStep [T, N]) for given actions."""

    @quick_jit
    def play(key: jax.Array) -> tuple:
        key_reset, key_noise = jax.random.split(key)
        state, obs = vec.reset(key_reset, actions.shape[1])
        noise = vec.noise(key_noise, *actions.shape[:2])
        state, ts = jax.lax.scan(lambda state, x: vec.step(x[0], state, x[1]), state, (noise, actions))
        return obs, state, ts

    return play(jax.random.clone(key))


@pytest.mark.parametrize("resets", RESETS)
def test_columns_are_agents_ordered_by_team(resets: str, key: jax.Array) -> None:
    actions = jax.random.randint(jax.random.key(1), (9, 2 * AGENTS), 0, 5, jnp.int32)
    vec = fold_agents(sums(), AGENTS, resets, pool_size=5)
    check_env(vec)
    obs, _, ts = run(vec, actions, key)
    joint = auto_reset(sums(), resets, pool_size=5)
    first, _, teams = run(joint, actions.reshape(9, 2, AGENTS), key)
    np.testing.assert_array_equal(obs, first.reshape(6, 3))
    for seen, whole in ((ts.obs, teams.obs), (ts.final_obs, teams.final_obs), (ts.reward, teams.reward)):
        np.testing.assert_array_equal(seen, whole.reshape(9, 6, *whole.shape[3:]))
    np.testing.assert_array_equal(ts.terminated, np.repeat(teams.terminated, AGENTS, axis=1))
    np.testing.assert_array_equal(ts.info["time"], np.repeat(teams.info["time"], AGENTS, axis=1))
    np.testing.assert_array_equal(ts.obs[0, :, 1], [0, 1, 2, 0, 1, 2])
    assert ts.terminated.any()


def test_a_loosely_written_team_conforms(key: jax.Array) -> None:
    env = conform(sums(loose=True), num_agents=AGENTS)
    assert env.observation_space == box(-np.inf, np.inf, (3,))
    vec = fold_agents(env, AGENTS)
    check_env(vec)
    actions = jnp.ones((5, AGENTS), jnp.int32)
    for a, b in zip(run(vec, actions, key)[2], run(fold_agents(sums(), AGENTS), actions, key)[2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_team_shares_a_scalar_reward() -> None:
    inner = sums()

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        state, ts = inner.step(key, state, action)
        return state, ts._replace(reward=ts.reward.sum())

    vec = fold_agents(inner._replace(step=step), AGENTS)
    _, _, ts = run(vec, jnp.ones((2, 2 * AGENTS), jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(ts.reward, [[33.0] * 6, [63.0] * 6])


def test_a_number_of_columns_that_the_team_size_does_not_divide_is_refused() -> None:
    vec = fold_agents(sums(), AGENTS)
    assert vec.group_size == AGENTS
    with pytest.raises(ValueError, match="num_envs = 4 is not a multiple of the 3 agents"):
        vec.reset(jax.random.key(0), 4)
    with pytest.raises(ValueError, match="num_envs = 4 is not a multiple of 3, which the environment Sums needs"):
        check_env(vec, 4)
    with pytest.raises(ValueError, match="at least 1 agent"):
        fold_agents(sums(), 0)


# --- a frozen opponent ------------------------------------------------------------------------------------


def match() -> Env:
    """Make a game of two in which the larger number wins; each observes 0 and its seat, later the other's action."""

    def view(seen: Any) -> Any:
        return jnp.stack([jnp.stack([seen[0], jnp.float32(0)]), jnp.stack([seen[1], jnp.float32(1)])])

    def reset(key: jax.Array) -> tuple[Any, Any]:
        return jnp.int32(0), view((jnp.float32(0), jnp.float32(0)))

    def step(key: jax.Array, time: Any, action: Any) -> tuple[Any, TimeStep]:
        mine = jnp.sign(action[0] - action[1]).astype(jnp.float32)
        seen = action.astype(jnp.float32)
        obs = view((seen[1], seen[0]))
        return time + 1, TimeStep(obs, jnp.stack([mine, -mine]), time == 5, jnp.bool_(False), obs)

    return Env(reset, step, box(0, 9, (2,)), Discrete(5))


def answer(params: Any, key: jax.Array, obs: Any) -> Any:
    """Play the last action of the other player, plus `params`."""
    return (obs[..., 0] + params).astype(jnp.int32)


@pytest.mark.parametrize("seat", [0, 1])
def test_the_opponent_plays_the_other_seat(seat: int) -> None:
    vec = frozen_opponent(match(), 2, answer, jnp.float32(1), seat=seat, resets="every_step")
    check_env(vec)
    actions = jnp.array([[0, 3], [2, 3], [4, 3]], jnp.int32)
    obs, _, ts = run(vec, actions, jax.random.key(0))
    np.testing.assert_array_equal(obs, [[0, seat]] * 2)
    theirs = np.array([[1, 1], [1, 4], [3, 4]])
    np.testing.assert_array_equal(ts.obs[..., 0], theirs)
    np.testing.assert_array_equal(ts.reward, np.sign(np.asarray(actions) - theirs))


def test_another_opponent_needs_no_recompilation() -> None:
    vec = frozen_opponent(match(), 2, answer, jnp.float32(1))
    assert vec.params == OpponentParams(1.0)
    count = []

    @jax.jit
    def play(params: OpponentParams, key: jax.Array) -> TimeStep:
        count.append(1)
        game = vec.family(params)
        state, _ = game.reset(key, 4)
        noise = jax.tree.map(lambda x: x[0], game.noise(jax.random.key(1), 1, 4))
        return game.step(noise, state, jnp.full(4, 3, jnp.int32))[1]

    weak, strong = play(vec.params, jax.random.key(1)), play(OpponentParams(jnp.float32(4)), jax.random.key(2))
    np.testing.assert_array_equal([weak.reward, strong.reward], [[1] * 4, [-1] * 4])
    assert len(count) == 1


def test_parameters_of_the_game_and_of_the_opponent_are_separate() -> None:
    """The prize is a parameter of the game."""

    def game(prize: jax.Array) -> Env:
        return reward_scale(match(), prize)

    vec = frozen_opponent(parametrized(game, 2.0), 2, answer, jnp.float32(1))
    assert vec.params == OpponentParams(1.0, 2.0)
    _, _, ts = run(vec.family(OpponentParams(4.0, 3.0)), jnp.full((1, 2), 3, jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(ts.reward, [[-3, -3]])
    with pytest.raises(ValueError, match="needs parameters that all columns share"):
        frozen_opponent(parametrized(game, 2.0, per_column=True), 2, answer)


def test_teams_have_separate_parameters_with_per_column() -> None:
    teams = fold_agents(parametrized(lambda shift: reward_scale(sums(), shift), 1.0, per_column=True), AGENTS)
    vec = teams.family(jnp.array([1.0, 2.0]))
    _, _, ts = run(vec, jnp.ones((1, 2 * AGENTS), jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(ts.reward, [[11, 11, 11, 22, 22, 22]])
    assert first_params(teams, 2 * AGENTS).shape == (2,)


def test_opponents_draw_other_keys_in_each_step() -> None:
    def roll(params: Any, key: jax.Array, obs: Any) -> Any:
        return jax.random.randint(key, obs.shape[:2], 0, 1000, jnp.int32)

    vec = frozen_opponent(match(), 2, roll, resets="state_pool", pool_size=3)
    _, _, ts = run(vec, jnp.zeros((5, 4), jnp.int32), jax.random.key(0))
    assert len(np.unique(ts.final_obs[..., 0])) > 15


def test_seats_out_of_range_are_refused() -> None:
    for num_agents, seat in ((1, 0), (2, 2), (2, -1)):
        with pytest.raises(ValueError, match="at least 2 agents and a seat among them"):
            frozen_opponent(match(), num_agents, answer, seat=seat)
