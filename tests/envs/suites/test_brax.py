"""Brax: transitions equal the suite's, `done` terminates, and the clock of the adapter truncates."""

from pathlib import Path

import jax
import numpy as np
import pytest
from probes import quick_jit
from suites import assert_clock, draw, first_end, first_keys, needs, play, run_suite

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import import_suite, suite_code
from purejaxppo.envs.registry import make

needs("brax")
envs = import_suite("brax", "brax.envs")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert set(recorded_ids("brax")) == set(envs._envs)


def test_it_steps_as_the_suite_does_until_the_pole_falls() -> None:
    played = play(make("brax/inverted_pendulum", time_limit=40), 40, 3)
    with suite_code():
        suite = envs.get_environment("inverted_pendulum")

    def replay(keys, actions):
        def step(state, action):
            state = jax.vmap(suite.step)(state, action)
            return state, (state.obs, state.reward, state.done)

        return jax.lax.scan(step, jax.vmap(suite.reset)(keys), actions)[1]

    obs, reward, done = run_suite(replay, first_keys(3), played.action)
    ends = first_end(played.ts.terminated | played.ts.truncated)
    assert (first_end(done > 0.5)[ends < 40] == ends[ends < 40]).all()
    for n, t in enumerate(ends):
        assert t > 1
        for ours, theirs in ((played.ts.final_obs, obs), (played.ts.reward, reward)):
            np.testing.assert_allclose(ours[: t - 1, n], theirs[: t - 1, n], rtol=1e-5, atol=1e-6)


def test_the_clock_is_that_of_the_adapter() -> None:
    """With the suite's environment for tests, which never ends."""
    ts = play(make("brax/fast", time_limit=4), 8, 2).ts
    assert not ts.terminated.any()
    np.testing.assert_array_equal(ts.truncated[:, 0], [False, False, False, True] * 2)
    assert not np.array_equal(ts.obs[3], ts.final_obs[3])


def test_the_default_clock_is_that_of_the_suites_training_wrapper() -> None:
    import inspect

    from purejaxppo.envs.suites.brax import TIME_LIMIT

    assert inspect.signature(envs.create).parameters["episode_length"].default == TIME_LIMIT


@pytest.mark.slow
def test_the_pole_falls_with_and_without_the_clock() -> None:
    assert_clock(lambda limit: make("brax/inverted_pendulum", time_limit=limit), 60, 8)


@pytest.mark.slow
def test_ant_has_the_spaces_of_the_suite() -> None:
    env = make("brax/ant", backend="spring", terminate_when_unhealthy=False)
    check_env(env)
    assert env.action_space.shape == (8,)
    assert quick_jit(env.reset)(jax.random.key(0))[1].shape == env.observation_space.shape


@pytest.mark.parametrize(("params", "key"), [({"back": "mjx"}, "backend"), ({"time_limit": "long"}, "time_limit")])
def test_wrong_parameters_are_named(params: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make("brax/inverted_pendulum", **params)


def test_it_is_drawn_as_a_page(tmp_path: Path) -> None:
    path = draw("brax/inverted_pendulum", tmp_path)
    assert path.suffix == ".html"
    assert "Brax visualizer" in path.read_text()


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="an older JAX has what the suite calls")
def test_an_environment_that_the_suite_cannot_make_is_one_sentence() -> None:
    with pytest.raises(EnvironmentUnavailable, match="swimmer with jax"):
        make("brax/swimmer")
