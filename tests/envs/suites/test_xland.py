"""XLand-MiniGrid: transitions equal the suite's, symbols keep their values, and the clock is max_steps."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import assert_clock, assert_same, colors, draw, first_keys, needs, play, run_suite

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make
from purejaxppo.envs.suites import xland as adapter

xminigrid = needs("xland")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert set(recorded_ids("xland")) == set(xminigrid.registered_environments())


def test_it_steps_as_the_suite_does() -> None:
    played = play(make("xland/MiniGrid-DoorKey-5x5"), 20, 3)
    assert not (played.ts.terminated | played.ts.truncated).any()
    env, params = xminigrid.make("MiniGrid-DoorKey-5x5")

    def replay(keys, actions):
        def step(ts, action):
            ts = jax.vmap(env.step, (None, 0, 0))(params, ts, action)
            return ts, (ts.observation, ts.reward)

        first = jax.vmap(env.reset, (None, 0))(params, keys)
        return jax.lax.scan(step, first, actions)[1]

    replayed = run_suite(replay, first_keys(3), played.action)
    assert_same(replayed, (played.ts.obs, played.ts.reward))


def test_max_steps_truncates_and_the_goal_terminates() -> None:
    assert_clock(lambda limit: make("xland/MiniGrid-Empty-5x5", max_steps=limit), 60, 32)


@pytest.mark.costly
def test_the_clock_of_doorkey_is_the_suites_own() -> None:
    ts = play(make("xland/MiniGrid-DoorKey-5x5"), 250, 2).ts
    assert (ts.truncated[-1] | ts.terminated.any(0)).all()
    assert not ts.truncated[:-1].any()


@pytest.mark.costly
def test_observations_are_symbols_within_their_bounds() -> None:
    env = make("xland/MiniGrid-DoorKey-5x5", view_size=5)
    space = env.observation_space
    assert (space.shape, space.dtype) == ((5, 5, 2), np.uint8)
    obs = play(env, 20, 4).seen
    assert (obs <= space.high).all()
    assert obs.max() > 1


def _rulesets() -> object:
    """Return a benchmark of two equal rulesets: pick up nothing, for which there is no reward."""
    empty = xminigrid.make("XLand-MiniGrid-R1-9x9")[1].ruleset
    return jax.tree.map(lambda x: jnp.stack([x, x]), empty)


class TwoRulesets:
    """Replaces xminigrid's Benchmark, which needs a download."""

    def sample_ruleset(self, key):
        return jax.tree.map(lambda x: x[jax.random.randint(key, (), 0, 2)], _rulesets())


@pytest.mark.costly
def test_xland_draws_a_ruleset_at_every_reset() -> None:
    env = make("xland/XLand-MiniGrid-R1-9x9", benchmark=TwoRulesets(), max_steps=5)
    check_env(env)
    assert (play(env, 5, 2).ts.truncated[-1]).all()


def test_xland_without_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match="benchmark"):
        make("xland/XLand-MiniGrid-R1-9x9")


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="trivial-21k"):
        make("xland/XLand-MiniGrid-R1-9x9", benchmark="trivial-22k")


def test_a_benchmark_that_cannot_be_downloaded_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name):
        raise OSError("no route to host")

    monkeypatch.setattr(adapter.import_suite("xland"), "load_benchmark", offline)
    with pytest.raises(EnvironmentUnavailable, match="no route to host"):
        make("xland/XLand-MiniGrid-R1-9x9", benchmark="trivial-21k")


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="max_steps"):
        make("xland/MiniGrid-Empty-5x5", max_step=3)


def test_it_is_drawn(tmp_path: Path) -> None:
    assert colors(draw("xland/MiniGrid-DoorKey-5x5", tmp_path)) > 2
