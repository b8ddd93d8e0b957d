"""Wrappers of actions: which action is carried out, and that masks are respected."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from odd_envs import wander
from probes import integer, play, rollout

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
    encode,
)
from purejaxppo.envs.wrappers.action_masks import with_action_mask
from purejaxppo.envs.wrappers.actions import clip_action, rescale_action, sticky_actions
from purejaxppo.envs.wrappers.observations import (
    append_previous,
)


def test_clip_action_clips_every_box_of_a_space_to_its_bounds() -> None:
    env = clip_action(probes.reward_by_distance(target=0.5, bound=2.0))
    assert env.action_space == box(-2, 2, (1,))
    rewards = [play(env, [jnp.array([a])])[1][0].reward for a in (5.0, 2.0, 1.0, -7.0)]
    np.testing.assert_allclose(rewards, [-2.25, -2.25, -0.25, -6.25], rtol=1e-6)
    mixed = clip_action(probes.reward_by_mixed_action(target=0.5))
    action = {"choice": integer(2), "push": jnp.array([9.0, 0.5])}
    np.testing.assert_allclose(play(mixed, [action])[1][0].reward, 1 - 0.25)
    _, (timestep,) = play(clip_action(probes.scripted()), [integer(2)])
    assert float(timestep.reward) == 102.0


def test_rescale_action_maps_the_interval_onto_the_bounds() -> None:
    inner = probes.reward_by_distance(target=0.0)._replace(
        action_space=Box(np.array([2.0], np.float32), np.array([6.0], np.float32))
    )
    for low, high, actions in ((-1, 1, (-1.0, 0.0, 1.0)), (0, 1, (0.0, 0.5, 1.0))):
        env = rescale_action(inner, low, high)
        assert env.action_space == box(low, high, (1,))
        rewards = [play(env, [jnp.array([a])])[1][0].reward for a in actions]
        np.testing.assert_allclose(rewards, [-4, -16, -36], rtol=1e-6)
    for bad in (probes.chain(), inner._replace(action_space=box(-np.inf, 1, (1,)))):
        with pytest.raises(ValueError, match="finite bounds"):
            rescale_action(bad)
    with pytest.raises(ValueError, match="low < high"):
        rescale_action(inner, 1, 1)


def test_sticky_actions_repeat_the_action_carried_out_with_the_given_probability(key: jax.Array) -> None:
    env = sticky_actions(probes.scripted(terminate_at=(5,), truncate_at=(), random_start=False), 0.25)
    actions = jax.random.randint(jax.random.key(4), (1000, 20), 0, 3, jnp.int32)
    _, _, _, ts = rollout(env, actions, key)
    # The reward identifies the action that was carried out.
    carried, given = np.asarray(ts.reward).astype(int) % 100, np.asarray(actions)
    first = np.arange(1000) % 5 == 0
    np.testing.assert_array_equal(carried[first], given[first])
    later = np.flatnonzero(~first)
    before = carried[later - 1]
    assert ((carried[later] == given[later]) | (carried[later] == before)).all()
    telling = given[later] != before
    stuck = (carried[later] == before)[telling]
    # 10 700 draws: a standard error of .0042
    assert abs(stuck.mean() - 0.25) < 0.017
    never = sticky_actions(probes.scripted(), 0.0)
    _, timesteps = play(never, [integer(a) for a in (2, 0, 1)])
    assert [float(t.reward) for t in timesteps] == [102, 200, 301]
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\)"):
            sticky_actions(probes.chain(), bad)


def test_sticky_actions_never_carry_out_a_forbidden_action() -> None:
    # The inner wrapper shows the action that was carried out.
    env = sticky_actions(append_previous(probes.masked()), 0.5)
    obs, given, ts = wander(env, 500)
    carried = ts.final_obs["observation"][..., 6:12].argmax(-1)
    assert set(np.unique(ts.reward)) == {0, 1}  # never -10
    np.testing.assert_array_equal(ts.terminated, np.tile((np.arange(500) % 4 == 3)[:, None], (1, 20)))
    time, env_index = np.nonzero((np.arange(500) % 4 != 0)[:, None] & np.ones(20, bool))
    before = carried[time - 1, env_index]
    allowed = obs["action_mask"][time, env_index, before]
    now, wanted = carried[time, env_index], given[time, env_index]
    np.testing.assert_array_equal(now[~allowed], wanted[~allowed])
    telling = allowed & (wanted != before)
    assert set(np.unique(now[telling] == before[telling])) == {False, True}
    # About 3000 draws: a standard error of .009
    assert telling.sum() > 2000
    assert abs((now == before)[telling].mean() - 0.5) < 0.04


COMPOUND = {"a": Discrete(3), "b": MultiDiscrete((2, 2)), "c": box(-1, 1, (2,))}


@pytest.mark.parametrize(
    ("actions", "shape", "size", "start"),
    [
        (MultiDiscrete((2, 3)), lambda m: m, 5, 0),
        (MultiDiscrete((2, 3)), lambda m: (m[:2], m[2:]), 5, 0),
        (COMPOUND, lambda m: {"a": m[:3], "b": m[3:]}, 7, 0),
        (COMPOUND, lambda m: {"b": m}, 4, 3),
        ((COMPOUND["c"], Discrete(3)), lambda m: ((), m), 3, 2),
    ],
    ids=["concatenated", "tuple", "dict", "part of a dict", "compound"],
)
def test_masks_of_every_form_hold_for_sticky_actions(actions: Any, shape: Any, size: int, start: int) -> None:
    """The one-hot code of an action, from `start` on, lies under the mask in every entry."""
    ones = jnp.ones(size, bool)

    def observe(key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        key, key_mask = jax.random.split(key)
        # At most one choice is forbidden, so that every component has another.
        mask = ones.at[jax.random.randint(key_mask, (), 0, size)].set(False)
        return (key, mask), mask.astype(jnp.float32)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        after, obs = observe(state[0])
        return after, TimeStep(obs, jnp.float32(0), jnp.bool_(False), jnp.bool_(False), obs)

    bare = Env(observe, step, box(0, 1, (size,)), actions)
    env = sticky_actions(append_previous(with_action_mask(bare, lambda state, obs: shape(state[1]))), 0.5)
    check_env(env)
    obs, given, ts = wander(env)
    masks, carried = obs["observation"][..., :size].astype(bool), ts.final_obs["observation"][..., size:-1]
    code = jax.vmap(jax.vmap(partial(encode, actions)))(given)
    assert not (carried[..., start : start + size].astype(bool) & ~masks).any()
    assert (carried != code).any(-1).mean() > 0.1


def test_actions_are_float32_for_bounds_of_any_dtype(key: jax.Array) -> None:
    """NumPy makes Boxes of float64; without x64, JAX has only float32."""
    for wrap in (clip_action, rescale_action):
        env = probes.reward_by_distance(target=0.0)._replace(action_space=box(-3, 3, (1,), np.float64))
        assert wrap(env).action_space.dtype == np.float32
        check_env(wrap(env))
    _, (timestep,) = play(clip_action(env), [jnp.array([9.0])])
    np.testing.assert_allclose(timestep.reward, -9)
    seen = []

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        seen.append(action.dtype)
        return state, TimeStep(state, jnp.float32(0), jnp.bool_(True), jnp.bool_(False), state)

    env = env._replace(step=step)
    with jax.enable_x64(True):
        for wrap in (clip_action, rescale_action):
            jax.eval_shape(wrap(env).step, jax.random.key(0), jnp.ones(1, jnp.float32), jnp.ones(1, jnp.float32))
    assert seen == [jnp.float64, jnp.float64]


def test_clip_action_accepts_a_batch_and_returns_environments_without_a_box_unchanged() -> None:
    vec = clip_action(auto_reset(probes.reward_by_distance(target=0.5)))
    state, _ = vec.reset(jax.random.key(0), 3)
    noise = jax.tree.map(lambda x: x[0], vec.noise(jax.random.key(1), 1, 3))
    _, timestep = vec.step(noise, state, jnp.array([[5.0], [0.5], [-7.0]]))
    np.testing.assert_allclose(timestep.reward, [-0.25, 0, -2.25])
    chain = probes.chain()
    assert clip_action(chain) is chain


@pytest.mark.parametrize("bound", [2e38, np.inf, 1e30])
def test_bounds_that_mean_unbounded_cannot_be_rescaled_to(bound: float) -> None:
    env = probes.reward_by_distance()._replace(action_space=box(-bound, bound, (1,)))
    with pytest.raises(ValueError, match="finite bounds"):
        rescale_action(env)
    with pytest.raises(ValueError, match="finite low < high"):
        rescale_action(probes.reward_by_distance(), -np.inf, 1)
