"""Wrappers that add a mask from the state of an environment, and allow everything in dead ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from odd_envs import asymmetric, hidden_mask, of_state, wander
from probes import integer, play, quick_jit

import purejaxppo as pp
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.masks import action_mask, allow_all_if_none
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
    encoded_space,
    zero_of,
)
from purejaxppo.envs.wrappers.action_masks import always_some_action, with_action_mask
from purejaxppo.envs.wrappers.observations import (
    flatten_observation,
    frame_stack,
    map_observation,
)


@pytest.mark.parametrize(
    "wrap",
    [lambda env: env, flatten_observation, lambda env: frame_stack(flatten_observation(env), 2)],
    ids=["alone", "flatten", "flatten and stack"],
)
def test_a_mask_from_the_state_forbids_actions(wrap: Any) -> None:
    env = wrap(with_action_mask(hidden_mask(), of_state))
    check_env(env)
    space: Any = env.observation_space
    assert space["action_mask"] == box(0, 1, (6,), np.bool_)
    obs, _, ts = wander(env)
    assert set(np.unique(ts.reward)) == {0, 1}  # a forbidden action has the reward -10
    assert obs["action_mask"].dtype == ts.final_obs["action_mask"].dtype == bool
    for seen in (obs, ts.final_obs):
        assert (seen["action_mask"] >= seen["observation"][..., -6:].astype(bool)).all()  # the wanted action is allowed


def test_a_policy_never_takes_an_action_that_a_mask_from_the_state_forbids() -> None:
    """A forbidden action would end the episode; every episode lasts four steps."""
    env = frame_stack(flatten_observation(with_action_mask(hidden_mask(), of_state)), 2)
    network = pp.make_network(env, pp.NetworkConfig(hidden_sizes=(8,)))
    config = pp.Config(num_envs=16, num_steps=16, num_minibatches=2, total_timesteps=512)
    _, metrics = quick_jit(lambda key: pp.train(pp.make_ppo(env, network, config), key))(jax.random.key(0))
    np.testing.assert_array_equal(metrics.episode_length_mean, [4, 4])


def test_a_mask_from_the_state_equals_that_of_the_observation() -> None:
    """For every form of the observation: at reset, at every step and before the reset."""
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


# --- dead ends --------------------------------------------------------------------------------------------


def dead_end(actions: Any, shape: Any, outside: bool | None = None) -> Env:
    """Make an episode of three steps, the second without an allowed action; `shape` forms the mask from its entries."""
    size = sum(encoded_space(leaf).low.size for leaf in jax.tree.leaves(actions) if not isinstance(leaf, Box))
    inner = probes.scripted(terminate_at=(3,), truncate_at=(), random_start=False)._replace(action_space=actions)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        return inner.step(key, state, integer(0))

    def mask(state: Any, obs: jax.Array) -> Any:
        return shape((jnp.arange(size) % 2 == 0) & (obs[1] != 1))

    env = with_action_mask(inner._replace(step=step), mask)
    if outside is None:
        return env
    space: Any = env.observation_space

    def split(x: Any) -> Any:
        main = {"x": x["observation"]}
        whole = {"actor": main if outside else x, "critic": main}
        return {**whole, "action_mask": x["action_mask"]} if outside else whole

    return map_observation(env, split, split(space))


@pytest.mark.parametrize(
    ("actions", "shape"),
    [
        (Discrete(3), lambda m: m),
        (Discrete(3), lambda m: m.astype(jnp.float32)),
        (MultiDiscrete((2, 3)), lambda m: m),
        (MultiDiscrete((2, 3)), lambda m: (m[:2], m[2:])),
        ({"a": Discrete(3), "b": MultiDiscrete((2, 2))}, lambda m: {"b": m[3:]}),
        ((box(-1, 1, (2,)), Discrete(3)), lambda m: ((), m)),
    ],
    ids=["discrete", "numbers", "concatenated", "tuple", "part of a dict", "compound"],
)
def test_a_dead_end_allows_every_action_and_other_masks_are_unchanged(actions: Any, shape: Any) -> None:
    closed = dead_end(actions, shape)
    with pytest.raises(ValueError, match=r"always_some_action\(env\)"):
        check_env(closed)
    env = always_some_action(closed)
    check_env(env)
    zero = [zero_of(actions)] * 2
    (first, steps), (old, before) = play(env, zero), play(closed, zero)
    assert jax.tree.structure(first) == jax.tree.structure(old)
    jax.tree.map(np.testing.assert_array_equal, (first, steps[1].obs), (old, before[1].obs))
    assert all(np.asarray(x).all() for x in jax.tree.leaves(steps[0].obs["action_mask"]))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(before[0].obs["action_mask"]))


def test_only_a_component_without_a_choice_is_opened() -> None:
    mask = jnp.array([False, False, True, False, False])
    np.testing.assert_array_equal(allow_all_if_none(MultiDiscrete((2, 3)), mask), [1, 1, 1, 0, 0])


@pytest.mark.parametrize("outside", [False, True])
def test_the_mask_of_an_asymmetric_observation_is_opened_in_place(outside: bool) -> None:
    env = always_some_action(dead_end(Discrete(3), lambda m: m, outside))
    check_env(env)
    _, steps = play(env, [integer(0)] * 2)
    np.testing.assert_array_equal([action_mask(ts.obs) for ts in steps], [[1, 1, 1], [1, 0, 1]])
    np.testing.assert_array_equal(steps[0].final_obs["critic"]["x"], [0, 1])


def test_without_a_mask_the_wrapper_is_refused() -> None:
    with pytest.raises(ValueError, match="needs observations with an action mask"):
        always_some_action(probes.chain())
