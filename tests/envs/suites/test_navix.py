"""NAVIX: transitions equal the suite's, symbols keep their values, and the clock is max_steps."""

from pathlib import Path

import jax
import numpy as np
import pytest
from suites import assert_clock, assert_same, colors, draw, first_keys, needs, play, run_suite

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import suite_code
from purejaxppo.envs.registry import make

navix = needs("navix")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert set(recorded_ids("navix")) == set(navix.registry())


def test_it_steps_as_the_suite_does() -> None:
    played = play(make("navix/Navix-DoorKey-5x5-v0"), 20, 3)
    assert not (played.ts.terminated | played.ts.truncated).any()
    env = navix.make("Navix-DoorKey-5x5-v0")

    def replay(keys, actions):
        def step(ts, action):
            ts = jax.vmap(env.step)(ts, action)
            return ts, (ts.observation, ts.reward)

        return jax.lax.scan(step, jax.vmap(env.reset)(keys), actions)[1]

    assert_same(run_suite(replay, first_keys(3), played.action), (played.ts.obs, played.ts.reward))


def test_max_steps_truncates_and_the_goal_terminates() -> None:
    assert_clock(lambda limit: make("navix/Navix-Empty-5x5-v0", max_steps=limit), 80, 32)


@pytest.mark.costly
def test_the_clock_is_the_suites_own() -> None:
    ts = play(make("navix/Navix-DoorKey-5x5-v0"), 100, 2).ts
    assert (ts.truncated[-1] | ts.terminated.any(0)).all()
    assert not ts.truncated[:-1].any()


@pytest.mark.costly
@pytest.mark.parametrize("observation", ["symbolic", "categorical_first_person", "rgb"])
def test_observations_are_within_their_space(observation: str) -> None:
    env = make("navix/Navix-KeyCorridorS3R1-v0", observation=observation)
    check_env(env)
    space, obs = env.observation_space, play(env, 20, 4).seen
    assert ((obs >= space.low) & (obs <= space.high)).all()
    assert space.pixels == (observation == "rgb")
    assert space.codes.all() == (observation != "rgb")


def test_the_state_contains_no_images() -> None:
    env = make("navix/Navix-FourRooms-v0")
    state = jax.eval_shape(env.reset, jax.random.key(0))[0]
    with suite_code():
        suites = jax.eval_shape(navix.make("Navix-FourRooms-v0").reset, jax.random.PRNGKey(0))
    small, large = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in (state, suites))
    assert small < large / 20


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="max_steps"):
        make("navix/Navix-Empty-5x5-v0", max_step=3)
    with pytest.raises(ValueError, match="categorical"):
        make("navix/Navix-Empty-5x5-v0", observation="categoric")


def test_penalties_are_the_suites() -> None:
    ts = play(make("navix/Navix-Empty-5x5-v0", penality_coeff=0.5), 60, 32).ts
    rewards = ts.reward[ts.terminated]
    assert len(np.unique(rewards)) > 1
    assert (rewards < 1).all()


def test_it_is_drawn(tmp_path: Path) -> None:
    assert colors(draw("navix/Navix-DoorKey-5x5-v0", tmp_path)) > 2
