"""`conform` corrects a loosely written environment; `check_env` names what breaks the protocol."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, rollout

from purejaxppo.envs.auto_reset import RESETS, auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
)
from purejaxppo.envs.wrappers.actions import clip_action


def sloppy(**parts: Any) -> Env:
    """Make an environment as people write them: Python numbers, integer rewards, a float flag, a wrong dtype."""

    def reset(key: jax.Array) -> Any:
        return {"time": 0, "x": jnp.zeros(2, jnp.int32)}, jnp.zeros(2, jnp.int32)

    def step(key: jax.Array, state: Any, action: Any) -> Any:
        x = state["x"] + 0.5 * action  # promotes integers: an error in strict mode
        timestep = TimeStep(x, 1, 1.0 * (state["time"] >= 2), False, x)
        return {"time": state["time"] + 1, "x": x}, timestep._replace(**parts)

    return Env(reset, step, box(-9, 9, (2,)), Discrete(2))


def test_conform_gives_every_leaf_one_strong_dtype(key: jax.Array) -> None:
    env = conform(sloppy())
    check_env(env)
    state, obs = env.reset(key)
    assert obs.dtype == jnp.float32
    assert state["time"].dtype == jnp.int32
    _, timesteps = play(env, [integer(1)] * 3)
    np.testing.assert_array_equal([t.obs[0] for t in timesteps], [0.5, 1.0, 1.5])
    np.testing.assert_array_equal([t.terminated for t in timesteps], [False, False, True])
    assert timesteps[0].reward.dtype == jnp.float32
    # A scan compiles, so the state's type is a fixed point.
    _, _, _, ts = rollout(env, jnp.ones((4, 2), jnp.int32), jax.random.key(1))
    np.testing.assert_array_equal(ts.reward, np.ones((4, 2)))


def test_conform_makes_observations_regular_and_the_space_true(key: jax.Array) -> None:
    def observe(time: Any) -> Any:
        return {"n": time % 3, "height": 0.5 * time, "grid": jnp.full((2, 2), time, jnp.uint8)}

    def step(key: jax.Array, time: Any, action: Any) -> Any:
        obs = observe(time + 1)
        return time + 1, TimeStep(obs, 0, False, False, obs)

    space = {"n": Discrete(3), "height": box(-1, 1, ()), "grid": box(0, 9, (2, 2))}
    env = conform(Env(lambda key: (0, observe(0)), step, space, Discrete(2)))
    check_env(env)
    grid = box(0, 9, (2, 2), np.uint8)
    assert env.observation_space == {"n": box(0, 1, (3,), codes=True), "height": box(-1, 1, (1,)), "grid": grid}
    _, timesteps = play(env, [integer(0)] * 2)
    np.testing.assert_array_equal(timesteps[1].obs["n"], [0, 0, 1])
    np.testing.assert_array_equal(timesteps[1].obs["height"], [1.0])


def test_conform_refuses_states_that_change_shape() -> None:
    bad = probes.scripted()
    grown = bad._replace(step=lambda k, s, a: (bad.step(k, s, a)[0], bad.step(jax.random.clone(k), s, a)[1]._replace(
        obs=jnp.zeros(3), final_obs=jnp.zeros(3))))  # fmt: skip
    with pytest.raises(ValueError, match=r"different observation: shape \(2,\) against \(3,\)"):
        conform(grown)
    other = bad._replace(step=lambda k, s, a: ((s,), bad.step(k, s, a)[1]))
    with pytest.raises(ValueError, match="different state"):
        conform(other)


def test_check_env_names_everything_that_is_wrong() -> None:
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError, match="conform") as error:
        check_env(sloppy(reward=jnp.ones(1), final_obs=jnp.zeros(1)))
    for part in (
        "the state after reset",
        "weakly typed",
        "the observation of reset",
        "final_obs",
        "reward must be a float32 scalar",
        "terminated must be a bool scalar",
        "not of the observation space",
    ):
        assert part in str(error.value)


def countdown(masks: list[tuple[bool, ...]], actions: Any, space: Any, name: str = "") -> Env:
    """Make an environment that shows one mask after the other and ends after the last; `space` gives their form."""
    table = jnp.asarray(masks)

    def observe(time: jax.Array) -> dict[str, Any]:
        row = table[jnp.minimum(time, len(masks) - 1)]
        mask = row if isinstance(space, Box) else (row[:2], row[2:])
        return {"observation": jnp.ones((1,), jnp.float32), "action_mask": mask}

    def step(key: jax.Array, time: jax.Array, action: Any) -> tuple[jax.Array, TimeStep]:
        obs = observe(time + 1)
        return time + 1, TimeStep(obs, jnp.float32(0), time + 1 == len(masks), jnp.bool_(False), obs)

    spaces = {"observation": box(0, 1, (1,)), "action_mask": space}
    return Env(lambda key: (integer(0), observe(integer(0))), step, spaces, actions, name)


FLAGS = {n: box(0, 1, (n,), np.bool_) for n in (2, 3, 5)}


NONE, SOME = (False, False, False), (False, True, False)


HALF = (True, False, False, False, False)  # a choice for the first of (2, 3), none for the second


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (countdown([SOME, SOME, NONE], Discrete(3), FLAGS[3], "Stuck-v0"), r"Stuck-v0 .* first 2 steps .* \[0, 0, 0\]"),
        (
            countdown([NONE], Discrete(3), FLAGS[3]),
            r"the environment allows no action in 2048 of 2048 .* first 0 steps",
        ),
        (countdown([HALF], MultiDiscrete((2, 3)), FLAGS[5], "Half-v0"), r"Half-v0 .* \[1, 0, 0, 0, 0\]"),
        (countdown([HALF], MultiDiscrete((2, 3)), (FLAGS[2], FLAGS[3]), "Pair-v0"), r"Pair-v0 .*\[1, 0\], \[0, 0, 0\]"),
    ],
    ids=["later", "at once", "one component", "one component of a tuple"],
)
def test_all_actions_masked_is_an_error_that_names_the_environment(env: Env, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_env(env)


def test_only_masked_environments_are_played_and_none_while_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = countdown([NONE], Discrete(3), FLAGS[3])

    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        check_env(stuck)  # inside a jit nothing is known: neither this error nor one about tracers
        return x

    jax.eval_shape(traced, jnp.ones(()))
    monkeypatch.setattr("purejaxppo.envs.conformance._check_masks", lambda *args: pytest.fail("played"))
    check_env(probes.chain())
    with pytest.raises(pytest.fail.Exception):
        check_env(probes.masked())


# --- conform: corrections and errors ----------------------------------------------------------------------


def still(obs: Any, space: Any, state: Any = 0, actions: Any = None, **parts: Any) -> Env:
    """Make an environment whose state never changes."""

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        return state, TimeStep(obs, 0.0, False, False, obs)._replace(**parts)

    return Env(lambda key: (state, obs), step, space, actions or Discrete(2))


@jax.tree_util.register_dataclass
@dataclass
class Grid:
    """A container of another package."""

    cells: Any


class Pair(NamedTuple):
    """A container that is a tuple."""

    left: Any
    right: Any


@pytest.mark.parametrize(
    ("obs", "space", "said"),
    [
        (
            Grid(np.zeros(2)),
            box(0, 1, (2,)),
            "obs is an object of type Grid, but its space is Box.* turn other containers",
        ),
        ({"a": Grid(np.zeros(2))}, {"a": box(0, 1, (2,))}, r"obs\['a'\] is an object of type Grid"),
        (Grid(np.zeros(2)), {"cells": box(0, 1, (2,))}, "obs must be a dict with the keys cells, .* but it is a Grid"),
        ({"b": np.zeros(2)}, {"a": box(0, 1, (2,))}, "obs must be a dict with the keys a, .* but it has the keys b"),
        ((np.zeros(2),), (box(0, 1, (2,)),) * 2, "obs must be a tuple of 2, .* but it is a tuple"),
        (np.zeros(1), box(0, 1, (3,)), r"obs has the shape \(1,\), but its space is Box\(0.0, 1.0, \(3,\)"),
        (
            np.zeros((4, 4)),
            box(0, 255, (4, 4), np.uint8, pixels=True),
            "obs has the dtype float.*, but its space says pixels",
        ),
    ],
)
def test_conform_refuses_observations_that_are_not_of_their_space(obs: Any, space: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        conform(still(obs, space))


def test_conform_takes_named_tuples_as_tuples_and_keeps_pixels_and_codes() -> None:
    image = box(0, 255, (4, 4), np.uint8, pixels=True)
    codes = box(0, 10, (3, 3), np.int32, codes=True)
    obs = {"pair": Pair(np.zeros((4, 4), np.uint8), np.int32(1)), "grid": np.zeros((3, 3), np.uint8)}
    env = conform(still(obs, {"pair": (image, Discrete(3)), "grid": codes}))
    check_env(env)
    assert env.observation_space == {
        "pair": (image, box(0, 1, (3,), codes=True)),
        "grid": box(0, 10, (3, 3), np.uint8, codes=True),
    }


def test_conform_refuses_rewards_and_flags_that_are_not_scalars() -> None:
    for parts, said in (
        ({"reward": np.zeros(2)}, "the reward of a step must be a scalar, not an array of shape"),
        ({"terminated": np.zeros(2, bool)}, "terminated of a step must be a scalar"),
        ({"info": {"wins": np.zeros(2)}}, r"info\['wins'\] of a step must be a scalar"),
    ):
        with pytest.raises(ValueError, match=said):
            conform(still(np.zeros(2, np.float32), box(0, 1, (2,)), **parts))


def test_conform_casts_info_and_64_bit_observations_and_actions() -> None:
    def check(env: Env) -> None:
        check_env(env)
        key, action = jax.random.key(0), jnp.ones(1, jnp.float32)
        timestep = jax.eval_shape(env.step, key, jax.eval_shape(env.reset, key)[0], action)[1]
        assert {str(x.dtype) for x in jax.tree.leaves((timestep.obs, timestep.reward, timestep.info))} == {"float32"}
        assert env.action_space == box(-1, 1, (1,))
        assert jax.tree.leaves(env.observation_space)[0].dtype == np.float32

    def make() -> Env:
        actions = box(-1, 1, (1,), np.float64)
        obs = jnp.zeros(2) + 1  # of the default dtype
        return conform(still(obs, box(0, 1, (2,), np.float64), jnp.arange(2), actions, info={"wins": True}))

    check(make())
    with jax.enable_x64(True):
        check(make())


def test_the_functions_of_an_environment_are_traced_once() -> None:
    calls = []

    def reset(key: jax.Array) -> Any:
        calls.append("reset")
        return jnp.zeros(2), jnp.zeros(2)

    def step(key: jax.Array, state: Any, action: Any) -> Any:
        calls.append("step")
        return state, TimeStep(state, jnp.float32(0), jnp.bool_(False), jnp.bool_(False), state)

    env = conform(Env(reset, step, box(0, 1, (2,)), Discrete(2)))
    check_env(env)
    jax.eval_shape(lambda key: auto_reset(env, "every_step").reset(key, 3), jax.random.key(0))
    assert sorted(calls) == ["reset", "step"]


# --- check_env --------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(eq=False)
class Entity:
    """A state whose class defines == on arrays."""

    place: Any

    def __eq__(self, other: object) -> Any:
        return jnp.array_equal(self.place, other.place)

    __hash__ = None


def test_states_may_define_equality() -> None:
    env = conform(still(jnp.zeros(2), box(0, 1, (2,)), Entity(jnp.zeros(3))))
    check_env(env)
    changed = env._replace(step=lambda *args: (Entity(jnp.zeros(4)), env.step(*args)[1]))
    with pytest.raises(
        ValueError, match=r"the state after reset and after a step differ: .*float32 \(3,\) against .*\(4,\)"
    ):
        check_env(changed)


def test_successful_random_play_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    env = probes.masked()
    check_env(env)
    monkeypatch.setattr("purejaxppo.envs.conformance._play", lambda *args: pytest.fail("played"))
    check_env(env)
    check_env(clip_action(env))
    with pytest.raises(pytest.fail.Exception):
        check_env(probes.masked())


def batch(**functions: Any) -> VecEnv:
    """The chain as a VecEnv, with some of its functions replaced."""
    return auto_reset(probes.chain()._replace(name="Batch"))._replace(**functions)


def changed_step(**parts: Any) -> VecEnv:
    vec = batch()

    def step(noise: Any, state: Any, action: Any) -> Any:
        state, timestep = vec.step(noise, state, action)
        return state, timestep._replace(**{name: change(getattr(timestep, name)) for name, change in parts.items()})

    return vec._replace(step=step)


def test_a_valid_batch_passes_in_every_mode() -> None:
    for resets in RESETS:
        check_env(auto_reset(probes.chain(), resets), num_envs=3)
        check_env(auto_reset(probes.masked(), resets, stagger=3))


@pytest.mark.parametrize(
    ("vec", "said"),
    [
        (
            changed_step(reward=lambda x: x[:2]),
            r"VecEnv with num_envs = 4: reward must be float32 \(4,\), not float32 \(2,\)",
        ),
        (changed_step(reward=lambda x: x.astype(jnp.int32)), r"reward must be float32 \(4,\), not int32 \(4,\)"),
        (changed_step(terminated=lambda x: x[0]), r"terminated must be bool \(4,\), not bool \(\)"),
        (changed_step(final_obs=lambda x: ()), "obs and final_obs of a step differ"),
        (
            changed_step(obs=lambda x: x[:3]),
            r"the observation of reset and of a step differ: .*\(4, 5\) against .*\(3, 5\)",
        ),
        (
            changed_step(info=lambda x: {"team": {"wins": jnp.zeros(4)}}),
            r"info must be a flat dict of scalars by name, or \(\), not",
        ),
        (
            changed_step(info=lambda x: {"wins": jnp.float32(1)}),
            r"info\['wins'\] must be float32 \(4,\), not float32 \(\)",
        ),
        (batch(noise=lambda key, num_steps, num_envs: jnp.zeros(num_envs)), r"must have leaves \[num_steps, ...\]"),
        (
            batch(step=lambda noise, state, action: (state, action)),
            r"must return \(env_state, TimeStep\), not an object of",
        ),
        (batch(observation_space=box(0, 1, (7,))), "is not of the observation space"),
        (batch(group_size=3), "num_envs = 4 is not a multiple of 3, which the environment Batch needs"),
    ],
)
def test_an_invalid_batch_is_refused_in_one_sentence(vec: VecEnv, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_env(vec, num_envs=4)
