"""Jumanji: transitions equal the suite's, its clock truncates, and every state allows an action."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_clock, assert_same, colors, draw, first_end, first_keys, needs, play, run_suite

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make
from purejaxppo.envs.spaces import Discrete, MultiDiscrete

jumanji = needs("jumanji")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert set(recorded_ids("jumanji")) == set(jumanji.registered_environments())


def test_it_steps_as_the_suite_does_with_a_joint_mask() -> None:
    played = play(make("jumanji/Tetris-v0"), 6, 3)
    assert not (played.ts.terminated | played.ts.truncated).any()
    env = jumanji.make("Tetris-v0")

    def replay(keys, actions):
        def step(state, action):
            state, ts = jax.vmap(env.step)(state, jnp.stack(jnp.unravel_index(action, (4, 10)), -1))
            seen = ts.observation
            return state, (seen.grid, seen.tetromino, seen.action_mask.reshape(3, 40), ts.reward)

        return jax.lax.scan(step, jax.vmap(env.reset)(keys)[0], actions)[1]

    obs = played.ts.obs
    ours = (obs["grid"], obs["tetromino"], obs["action_mask"], played.ts.reward)
    assert_same(run_suite(replay, first_keys(3), played.action), ours)


def test_the_clock_truncates_and_death_terminates() -> None:
    """The count of steps is shown as a share of the limit, so it is left out of the comparison."""

    def clocked(limit: int):
        env = make("jumanji/Snake-v1", num_rows=4, num_cols=4, time_limit=limit)

        def without_counter(result):
            state, ts = result
            obs = {k: v for k, v in ts.obs.items() if k != "step_count"}
            return state, ts._replace(obs=obs, final_obs=obs)

        def reset(key):
            state, obs = env.reset(key)
            return state, {k: v for k, v in obs.items() if k != "step_count"}

        space = {k: v for k, v in env.observation_space.items() if k != "step_count"}
        return env._replace(reset=reset, step=lambda *x: without_counter(env.step(*x)), observation_space=space)

    assert_clock(clocked, 60, 32)


def test_the_counter_is_a_share_of_the_limit() -> None:
    seen = play(make("jumanji/Maze-v0", time_limit=5), 6, 2).ts
    np.testing.assert_allclose(
        seen.final_obs["step_count"][:5, :, 0], np.tile(np.arange(1, 6) / 5, (2, 1)).T, rtol=1e-6
    )
    assert seen.truncated[4].all()


@pytest.mark.costly
def test_the_clock_of_the_suite_is_kept_if_rewards_depend_on_it() -> None:
    ts = play(make("jumanji/SearchAndRescue-v0", time_limit=7), 8, 2).ts
    assert (first_end(ts.truncated) == 7).all()
    assert not ts.terminated.any()


def test_a_trapped_snake_may_move() -> None:
    """Without this correction training ends with the error that a state allows no action."""
    obs = play(make("jumanji/Snake-v1", num_rows=3, num_cols=3), 200, 32).ts.final_obs
    assert obs["action_mask"].any(-1).all()


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("Connector-v3", MultiDiscrete((5,) * 10)),
        ("MultiCVRP-v0", MultiDiscrete((21, 21))),
        ("Sudoku-v0", Discrete(729)),
        ("RubiksCube-v0", MultiDiscrete((6, 1, 3))),
        ("BinPack-v2", Discrete(800)),
    ],
)
def test_actions_are_components_or_one_joint_choice(name: str, space: object) -> None:
    env = make(f"jumanji/{name}")
    assert env.action_space == space
    check_env(env)


@pytest.mark.costly
def test_the_reward_of_a_team_is_the_sum() -> None:
    ts = play(make("jumanji/Connector-v3"), 6, 4).ts
    assert ts.reward.shape == (6, 4)
    assert (ts.reward < 0).any()


def test_levels_that_cannot_be_downloaded_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(jumanji, "make", offline)
    with pytest.raises(EnvironmentUnavailable, match="no route to host"):
        make("jumanji/Sokoban-v0")


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="num_rows"):
        make("jumanji/Snake-v1", rows=3)


@pytest.mark.costly
def test_it_is_drawn(tmp_path: Path) -> None:
    assert colors(draw("jumanji/Snake-v1", tmp_path)) > 2
