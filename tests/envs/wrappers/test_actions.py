"""Wrappers of actions carry out what they should, and what the mask allows."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from odd_envs import asymmetric, hidden_mask, of_state, wander
from probes import integer, play, quick_jit, rollout

import purejaxppo as pp
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.masks import action_mask
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
    encode,
)
from purejaxppo.envs.wrappers.actions import clip_action, rescale_action, sticky_actions, with_action_mask
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
)


def test_clip_action_clips_boxes_at_their_own_bounds_wherever_they_are() -> None:
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
    # The reward tells the action carried out.
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


def test_sticky_actions_never_carry_out_what_is_forbidden() -> None:
    # The inner wrapper shows the action carried out.
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
    """The one-hot code of an action, from `start` on, lies under the mask, number by number."""
    ones = jnp.ones(size, bool)

    def observe(key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        key, key_mask = jax.random.split(key)
        # At most one number is forbidden, so that every component has a choice.
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


@pytest.mark.parametrize(
    "wrap",
    [lambda env: env, flatten_observation, lambda env: frame_stack(flatten_observation(env), 2)],
    ids=["alone", "flatten", "flatten and stack"],
)
def test_a_mask_of_the_state_forbids_what_it_should(wrap: Any) -> None:
    env = wrap(with_action_mask(hidden_mask(), of_state))
    check_env(env)
    space: Any = env.observation_space
    assert space["action_mask"] == box(0, 1, (6,), np.bool_)
    obs, _, ts = wander(env)
    assert set(np.unique(ts.reward)) == {0, 1}  # a forbidden action would pay -10
    assert obs["action_mask"].dtype == ts.final_obs["action_mask"].dtype == bool
    for seen in (obs, ts.final_obs):
        assert (seen["action_mask"] >= seen["observation"][..., -6:].astype(bool)).all()  # what is wanted is allowed


def test_a_policy_never_does_what_a_mask_of_the_state_forbids() -> None:
    """Every episode lasts its four steps: what is forbidden ends it."""
    env = frame_stack(flatten_observation(with_action_mask(hidden_mask(), of_state)), 2)
    network = pp.make_network(env, pp.NetworkConfig(hidden_sizes=(8,)))
    config = pp.Config(num_envs=16, num_steps=16, num_minibatches=2, total_timesteps=512)
    _, metrics = quick_jit(lambda key: pp.train(pp.make_ppo(env, network, config), key))(jax.random.key(0))
    np.testing.assert_array_equal(metrics.episode_length_mean, [4, 4])


def test_a_mask_of_the_state_is_the_one_that_the_observation_had() -> None:
    """Whatever the form of the observation: at reset, at every step and before the reset."""
    actions = [integer(0)] * 3
    first, steps = play(probes.masked(), actions)
    for make, entry in (
        (hidden_mask, "observation"),
        (lambda: map_observation(hidden_mask(), lambda x: {"x": x}, {"x": box(0, 1, (6,))}), "x"),
    ):
        obs, seen = play(with_action_mask(make(), of_state), actions)
        assert set(obs) == {entry, "action_mask"}
        pairs = [(obs, first), *((a.obs, b.obs) for a, b in zip(seen, steps, strict=True))]
        for shown, true in [*pairs, *((a.final_obs, b.final_obs) for a, b in zip(seen, steps, strict=True))]:
            np.testing.assert_array_equal(shown[entry], true["observation"])
            np.testing.assert_array_equal(shown["action_mask"], true["action_mask"])
    apart = map_observation(
        hidden_mask(), lambda x: {"actor": x, "critic": x}, dict.fromkeys(("actor", "critic"), box(0, 1, (6,)))
    )
    obs, _ = play(with_action_mask(apart, of_state), [])
    assert set(obs) == {"actor", "critic", "action_mask"}
    np.testing.assert_array_equal(action_mask(obs), first["action_mask"])


def test_masks_of_numbers_are_cast_to_their_space() -> None:
    def numbers(state: Any, obs: Any) -> jax.Array:
        return 3 * state[1].astype(jnp.int32)

    whole, _ = play(probes.masked(), [])
    for space, dtype in ((None, np.bool_), (box(0, 3, (6,)), np.float32)):
        env = with_action_mask(hidden_mask(), numbers, space)
        check_env(env)
        mask = play(env, [])[0]["action_mask"]
        assert mask.dtype == dtype
        np.testing.assert_array_equal(mask.astype(bool), whole["action_mask"])


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="has an action mask already"):
        with_action_mask(probes.masked(), lambda state, obs: state[1])
    with pytest.raises(ValueError, match="has an action mask already"):
        with_action_mask(asymmetric(), lambda state, obs: state[1])
    with pytest.raises(ValueError, match="continuous actions have no mask"):
        with_action_mask(probes.reward_by_distance(), lambda state, obs: jnp.ones(1, bool))
    with pytest.raises(ValueError, match="it must have the length 2"):
        with_action_mask(probes.chain(), lambda state, obs: jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"of the shape \(2, 2\), which is not of the space Box\(0.0, 1.0, \(2,\)"):
        with_action_mask(probes.chain(), lambda state, obs: jnp.ones((2, 2), bool), box(0, 1, (2,)))
