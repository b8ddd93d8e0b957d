"""An episode is drawn from its first state to the one after its last action."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

import purejaxppo as pp
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.rendering import Renderer
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers import time_limit
from purejaxppo.training.policy_file import Policy
from purejaxppo.training.rendering import render_episode

LENGTH = 4


class Count(NamedTuple):
    """Steps of the episode so far."""

    steps: jax.Array


def step(key, state, action):
    steps = state.steps + 1
    obs = steps[None].astype(jnp.float32)
    return Count(steps), TimeStep(obs, obs[0], steps == LENGTH, jnp.bool_(False), obs)


@pytest.fixture(scope="module")
def played():
    """A function (path, max_steps) -> (counts that were drawn, what `render_episode` returned)."""
    env = Env(lambda key: (Count(jnp.int32(0)), jnp.zeros(1)), step, box(0, LENGTH, (1,)), Discrete(2))
    algo = pp.make_ppo(time_limit(env, 100), pp.mlp(env), pp.Config(num_envs=2, num_steps=2, num_minibatches=1))
    state = pp.init_state(algo, 0)

    def play(path, max_steps):
        drawn = []
        renderer = Renderer(Count, lambda states, path: drawn.extend(int(s.steps) for s in states))
        policy = Policy(state.params, state.obs_moments)
        return drawn, render_episode(algo, policy, renderer, path, 0, max_steps, True)

    return play


@pytest.mark.parametrize("max_steps", [2, LENGTH, 7])
def test_states_of_one_episode_are_drawn(played, tmp_path, max_steps):
    """The rewards are 1, 2, ..., the number of steps."""
    steps = min(max_steps, LENGTH)
    drawn, result = played(tmp_path / "file", max_steps)
    assert drawn == list(range(steps + 1))
    assert result == (steps, steps * (steps + 1) / 2)
