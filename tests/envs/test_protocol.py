"""The error for an object that is not an environment says what to write instead."""

from types import SimpleNamespace
from typing import Any

import gymnax
import probes
import pytest

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import TimeStep, check_is_env, describe, step_avals
from purejaxppo.envs.spaces import Discrete


class TheirEnv:
    """An environment like one of gymnasium."""

    spec = SimpleNamespace(id="CartPole-v1")


TheirEnv.__module__ = "gymnasium.envs"


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        ("CartPole-v1", r'not the string "CartPole-v1": write purejaxppo.make\("CartPole-v1"\)'),
        (gymnax.make("CartPole-v1"), "the pair that gymnax.make returns: write purejaxppo.make"),
        (gymnax.make("CartPole-v1")[0], r'gymnax environment CartPole.*: write purejaxppo.make\("CartPole'),
        (TheirEnv(), r'gymnasium environment CartPole-v1: write purejaxppo.make\("gymnasium/CartPole-v1"\)'),
        (None, "object of type NoneType: write"),
        (3, "object of type int: write"),
        (probes.chain, r"object of type function: write .* or Env\(reset, step, observation_space, action_space\)"),
    ],
)
def test_the_error_for_another_object_says_what_to_write(thing: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        check_is_env(thing)


def test_spaces_and_functions_of_an_environment_are_checked() -> None:
    env = probes.chain()._replace(name="Chain")
    check_is_env(env)
    check_is_env(auto_reset(env))
    theirs = gymnax.environments.spaces.Box(0, 1, (2,))
    for change, kind, said in (
        (
            {"observation_space": theirs},
            ValueError,
            "the observation space of the environment Chain must be .* gymnax Box",
        ),
        ({"action_space": 3}, ValueError, "the action space of the environment Chain must be .* of type int"),
        ({"action_space": {}}, ValueError, "the action space of the environment Chain is an empty dict"),
        ({"step": None}, TypeError, "step of the environment Chain must be a function, not None"),
    ):
        with pytest.raises(kind, match=said):
            check_is_env(env._replace(**change))
    with pytest.raises(TypeError, match="noise of the environment Chain must be a function"):
        check_is_env(auto_reset(env)._replace(noise=()))


def test_a_step_is_traced_and_not_computed() -> None:
    state, obs, next_state, timestep = step_avals(probes.chain())
    assert isinstance(timestep, TimeStep)
    assert (obs.shape, timestep.reward.shape, state.shape) == ((5,), (), next_state.shape)
    assert timestep.info == ()
    assert [describe(env) for env in (probes.chain(), probes.chain()._replace(name="X"))] == [
        "the environment",
        "the environment X",
    ]
    assert probes.chain().action_space == Discrete(2)
