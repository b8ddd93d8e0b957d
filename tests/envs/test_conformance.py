"""`conform` mends a loosely written environment; `check_env` names what breaks the protocol."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, rollout

from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
)


def sloppy(**parts: Any) -> Env:
    """An environment as people write them: Python numbers, integer rewards, done as a float, a mixed-up dtype."""

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

    space = {"n": Discrete(3), "height": box(-1, 1, ()), "grid": box(0, 9, (7,))}
    env = conform(Env(lambda key: (0, observe(0)), step, space, Discrete(2)))
    check_env(env)
    # The declared shape of "grid" is wrong, so its bounds mean nothing either.
    whole = box(0, 255, (2, 2), np.uint8)
    assert env.observation_space == {"n": box(0, 1, (3,), codes=True), "height": box(-1, 1, (1,)), "grid": whole}
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
    """One mask after the other, the end after the last; the mask of a step is put into its form by `space`."""
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
        check_env(stuck)  # nothing is known inside of a jit: no error, and none about tracers either
        return x

    jax.eval_shape(traced, jnp.ones(()))
    monkeypatch.setattr("purejaxppo.envs.conformance._check_masks", lambda *args: pytest.fail("played"))
    check_env(probes.chain())
    with pytest.raises(pytest.fail.Exception):
        check_env(probes.masked())
