"""MuJoCo Playground: transitions equal the suite's, `done` terminates, episode_length truncates."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit
from suites import first_keys, needs, play, run_suite

from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.masks import is_asymmetric
from purejaxppo.envs.registry import make
from purejaxppo.envs.suites import playground as adapter

playground = needs("playground")


def test_the_recorded_ids_are_those_of_the_suite() -> None:
    assert recorded_ids("playground") == playground.registry.ALL_ENVS


@pytest.mark.parametrize(("name", "mode"), [("CartpoleBalance", "every_step"), ("CheetahRun", "state_pool")])
def test_an_environment_whose_reset_simulates_200_steps_has_a_pool(name: str, mode: str) -> None:
    assert make(f"playground/{name}").resets == mode


@pytest.fixture(scope="module")
def played():
    return play(make("playground/CartpoleBalance", episode_length=5), 12, 2)


def test_it_steps_as_the_suite_does(played) -> None:
    suite = playground.registry.load("CartpoleBalance", config_overrides={"impl": "jax"})

    def replay(keys, actions):
        def step(state, action):
            state = jax.vmap(suite.step)(state, action)
            return state, (state.obs, state.reward)

        return jax.lax.scan(step, jax.vmap(suite.reset)(keys), actions)[1]

    for ours, theirs in zip(
        (played.ts.final_obs, played.ts.reward), run_suite(replay, first_keys(2), played.action[:5]), strict=True
    ):
        np.testing.assert_allclose(ours[:5], theirs, rtol=1e-5, atol=1e-6)


def test_the_clock_is_episode_length(played) -> None:
    ts = played.ts
    np.testing.assert_array_equal(ts.truncated[:, 0], [t % 5 == 4 for t in range(12)])
    assert not ts.terminated.any()
    assert not np.array_equal(ts.obs[4], ts.final_obs[4])


def test_done_terminates_at_the_step_of_the_clock_as_well() -> None:
    """A task of the control suite ends if its state is NaN; a small class replaces a task."""

    class Task:
        action_size = 1

        def reset(self, key):
            return adapter_state(jnp.zeros(()))

        def step(self, state, action):
            return adapter_state(state.time + 1)

    env = adapter.time_limit(adapter.conform(adapter._adapt(Task())), 3)
    state, _ = env.reset(jax.random.key(0))
    found = []
    for _ in range(3):
        state, ts = quick_jit(env.step)(jax.random.key(1), state, jnp.zeros(1))
        found.append((bool(ts.terminated), bool(ts.truncated)))
    assert found == [(False, False), (False, False), (True, True)]
    assert is_asymmetric(env.observation_space)


def adapter_state(time):
    from mujoco_playground._src.mjx_env import State

    obs = {"state": time[None], "privileged_state": jnp.stack([time, time])}
    return TimedState(State(None, obs, time, (time == 3).astype(jnp.float32), {}, {}), time)


class TimedState:
    """Playground's State with a clock."""

    def __init__(self, state, time):
        self.state, self.time = state, time

    def __getattr__(self, name):
        return getattr(self.state, name)


jax.tree_util.register_pytree_node(
    TimedState, lambda x: ((x.state, x.time), None), lambda _, leaves: TimedState(*leaves)
)


def test_nested_settings_are_the_suites() -> None:
    with pytest.raises(ValueError, match=r"vision_config\.nworld"):
        make("playground/CartpoleBalance", vision_config={"nworlds": 3})
    with pytest.raises(ValueError, match="episode_length"):
        make("playground/CartpoleBalance", episode_length="long")


def test_robots_that_cannot_be_downloaded_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args, **kwargs):
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(playground._src.registry, "load", offline)
    with pytest.raises(EnvironmentUnavailable, match="git"):
        make("playground/Go1JoystickFlatTerrain")
