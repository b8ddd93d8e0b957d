"""Wrappers do what their formulas say: masks stay masks, actor and critic stay apart, history begins anew."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, quick_jit, rollout

import purejaxppo as pp
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.masks import action_mask, sample_allowed
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, box, encode, encoded_space, sample_space
from purejaxppo.envs.wrappers.actions import clip_action, rescale_action, sticky_actions, with_action_mask
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
    mask_observation,
)

PROBES = {
    name: getattr(probes, name)
    for name in (
        "constant_reward",
        "reward_is_observation",
        "reward_by_action",
        "reward_by_action_and_observation",
        "reward_by_distance",
        "reward_by_many_actions",
        "reward_by_mixed_action",
        "two_steps",
        "endless",
        "chain",
        "masked",
        "scripted",
    )
}

# --- observations and actions -----------------------------------------------------------------------------


def nested() -> Env:
    """Observations as a dict of a tuple, an integer and an array; they count the steps."""
    space = {
        "z": (Discrete(4), box(0, 9, (2, 2), np.int32)),
        "a": box(-5, 5, (3,)),
    }

    def observe(time: jax.Array) -> Any:
        return {"z": (time, jnp.full((2, 2), time)), "a": jnp.full((3,), -time.astype(jnp.float32))}

    def step(key: jax.Array, time: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        time, obs = time + 1, observe(time + 1)
        return time, TimeStep(obs, jnp.float32(0), jnp.asarray(False), jnp.asarray(False), obs)

    return Env(lambda key: (integer(0), observe(integer(0))), step, space, Discrete(2))


def pixels(dtype: Any = np.uint8) -> Env:
    return map_observation(
        probes.constant_reward(),
        lambda obs: jnp.arange(12).reshape(2, 3, 2).astype(dtype),
        box(0, 255, (2, 3, 2), dtype),
    )


def plane() -> Env:
    """An image without channels, [2, 3], that shows the time."""
    return map_observation(
        probes.scripted(terminate_at=(), truncate_at=(3,), random_start=False),
        lambda obs: jnp.full((2, 3), obs[1]).astype(jnp.uint8),
        box(0, 255, (2, 3), np.uint8),
    )


def asymmetric(outside: bool = False) -> Env:
    """`masked`, whose critic also sees a level; the mask stands in the actor's entry or in the dict itself."""
    env, level = probes.masked(), jnp.ones((2, 2), jnp.float32)

    def split(x: Any, level: Any) -> Any:
        actor, critic = x if not outside else {"observation": x["observation"]}, {"x": x["observation"], "level": level}
        return {"actor": actor, "critic": critic} | ({"action_mask": x["action_mask"]} if outside else {})

    return map_observation(env, lambda obs: split(obs, level), split(env.observation_space, box(0, 1, (2, 2))))


def hidden_mask() -> Env:
    """`masked` that does not show its mask; it keeps it in its state."""
    env = probes.masked()
    space: Any = env.observation_space
    return map_observation(env, lambda obs: obs["observation"], space["observation"])


def of_state(state: Any, obs: Any) -> jax.Array:
    """The mask of `hidden_mask`."""
    return state[1]


def judged() -> Env:
    """A mask in another form, of bools and of a nested observation: even steps allow action 0 only, odd ones both."""
    return with_action_mask(nested(), lambda time, obs: jnp.stack([time >= 0, time % 2 == 1]))


def wander(env: Env, num_steps: int = 200, num_envs: int = 20) -> tuple[Any, Any, TimeStep]:
    """Random play among the actions that the mask allows -> (obs, action, TimeStep), leaves [T, N, ...]."""
    vec, choose = auto_reset(env), jax.vmap(partial(sample_allowed, env.action_space))

    def step(loop: tuple, noise: tuple) -> tuple:
        env_state, obs = loop
        action = choose(action_mask(obs), noise[1])
        env_state, ts = vec.step(noise[0], env_state, action)
        return (env_state, ts.obs), (obs, action, ts)

    @quick_jit
    def run(key: jax.Array) -> tuple[Any, Any, TimeStep]:
        keys = jax.random.split(key, 3)
        noise = vec.noise(keys[0], num_steps, num_envs), jax.random.split(keys[1], (num_steps, num_envs))
        return jax.lax.scan(step, vec.reset(keys[2], num_envs), noise)[1]

    return jax.tree.map(np.asarray, run(jax.random.key(7)))


WRAPPED = {
    "flatten": lambda: flatten_observation(time_limit(nested(), 3)),
    "flatten_masked": lambda: flatten_observation(probes.masked()),
    "flatten_image": lambda: flatten_observation(pixels(), images=True),
    "clip": lambda: clip_action(probes.reward_by_distance()),
    "clip_mixed": lambda: clip_action(probes.reward_by_mixed_action()),
    "rescale": lambda: rescale_action(probes.reward_by_distance(bound=3)),
    "time_limit": lambda: time_limit(probes.chain(), 3),
    "mask_observation": lambda: mask_observation(probes.chain(), [4, 0]),
    "append_previous": lambda: append_previous(probes.chain()),
    "append_previous_masked": lambda: append_previous(probes.masked()),
    "append_previous_mixed": lambda: append_previous(probes.reward_by_mixed_action()),
    "frame_stack": lambda: frame_stack(probes.chain(), 3),
    "frame_stack_masked": lambda: frame_stack(probes.masked(), 3),
    "frame_stack_image": lambda: frame_stack(pixels(), 3),
    "frame_stack_plane": lambda: frame_stack(plane(), 3),
    "frame_stack_nested": lambda: frame_stack(time_limit(nested(), 3), 3),
    "frame_stack_asymmetric": lambda: frame_stack(asymmetric(), 3),
    "append_previous_nested": lambda: append_previous(time_limit(nested(), 3)),
    "append_previous_image": lambda: append_previous(pixels()),
    "append_previous_asymmetric": lambda: append_previous(asymmetric()),
    "flatten_asymmetric": lambda: flatten_observation(asymmetric()),
    "mask": lambda: with_action_mask(hidden_mask(), of_state),
    "mask_composed": lambda: frame_stack(append_previous(flatten_observation(time_limit(judged(), 3))), 2),
    "sticky_masked": lambda: sticky_actions(probes.masked()),
    "sticky": lambda: sticky_actions(probes.chain()),
    "sticky_mixed": lambda: sticky_actions(probes.reward_by_mixed_action()),
    "all": lambda: frame_stack(append_previous(sticky_actions(time_limit(flatten_observation(nested()), 3))), 2),
}


@pytest.mark.parametrize("make", [*PROBES.values(), *WRAPPED.values()], ids=[*PROBES, *WRAPPED])
def test_probes_and_wrapped_environments_keep_to_the_protocol(make: Any, key: jax.Array) -> None:
    env = make()
    check_env(env)
    # and their observations are in their declared bounds, also after resets
    sample = jax.vmap(jax.vmap(partial(sample_space, env.action_space)))
    actions = partial(sample, jax.random.split(jax.random.key(9), (8, 3)))
    _, obs, _, ts = rollout(env, actions, key, shape=(8, 3))

    def within(space: Any, values: Any) -> None:
        encoded = encoded_space(space)
        vectors = np.asarray(quick_jit(jax.vmap(partial(encode, space)))(values))
        assert (vectors >= encoded.low).all()
        assert (vectors <= encoded.high).all()

    for values in (obs, *(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), v) for v in (ts.obs, ts.final_obs))):
        within(env.observation_space, values)
    assert np.isfinite(ts.reward).all()


def test_flatten_observation_encodes_everything_in_order_of_sorted_keys() -> None:
    env = flatten_observation(nested())
    assert env.observation_space == Box(
        np.array([-5] * 3 + [0] * 8, np.float32), np.array([5] * 3 + [1] * 4 + [9] * 4, np.float32)
    )
    obs, timesteps = play(env, [integer(0)] * 2)
    np.testing.assert_array_equal(obs, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(timesteps[1].obs, [-2, -2, -2, 0, 0, 1, 0, 2, 2, 2, 2])
    np.testing.assert_array_equal(timesteps[1].final_obs, timesteps[1].obs)


def test_flatten_observation_keeps_action_masks_apart() -> None:
    env = flatten_observation(probes.masked(num_actions=4))
    assert isinstance(env.observation_space, dict)
    obs, _ = play(env, [])
    assert obs["observation"].shape == env.observation_space["observation"].shape == (4,)
    assert obs["action_mask"].dtype == jnp.bool_
    both = map_observation(
        probes.masked(num_actions=4),
        lambda obs: {**obs, "level": integer(1)},
        {**env.observation_space, "level": Discrete(3)},
    )
    obs, _ = play(flatten_observation(both), [])
    np.testing.assert_array_equal(obs["observation"][:3], [0, 1, 0])
    assert obs["observation"].shape == (7,)


@pytest.mark.parametrize("outside", [False, True])
def test_flatten_observation_keeps_actor_and_critic_and_the_mask_apart(outside: bool) -> None:
    env, whole = flatten_observation(asymmetric(outside)), probes.masked()
    check_env(env)
    vector, critic, flags = box(0, 1, (6,)), box(0, 1, (10,)), box(0, 1, (6,), np.bool_)
    masked = {"observation": vector, "action_mask": flags}
    assert env.observation_space == (
        {"actor": vector, "critic": critic, "action_mask": flags} if outside else {"actor": masked, "critic": critic}
    )
    (obs, (ts,)), (other, (true,)) = play(env, [integer(0)]), play(whole, [integer(0)])
    for seen, shown in ((obs, other), (ts.obs, true.obs), (ts.final_obs, true.final_obs)):
        actor = seen["actor"] if outside else seen["actor"]["observation"]
        np.testing.assert_array_equal(actor, shown["observation"])
        np.testing.assert_array_equal(seen["critic"], np.concatenate([np.ones(4), shown["observation"]]))
        np.testing.assert_array_equal(action_mask(seen), shown["action_mask"])
    assert flatten_observation(env) is env


def test_flatten_observation_judges_the_images_of_actor_and_critic_apart() -> None:
    image = pixels().observation_space
    env = map_observation(
        pixels(),
        lambda obs: {"actor": obs, "critic": {"image": obs, "speed": jnp.ones(2)}},
        {"actor": image, "critic": {"image": image, "speed": box(0, 1, (2,))}},
    )
    with pytest.raises(ValueError, match="images=True"):
        flatten_observation(env)
    obs, _ = play(flatten_observation(env, images=True), [])
    assert (obs["actor"].shape, obs["critic"].shape) == ((12,), (14,))
    alone = map_observation(
        pixels(),
        lambda obs: {"actor": obs, "critic": {"n": integer(1)}},
        {"actor": image, "critic": {"n": Discrete(3)}},
    )
    obs, _ = play(flatten_observation(alone), [])
    assert obs["actor"].dtype == jnp.uint8
    np.testing.assert_array_equal(obs["critic"], [0, 1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_flatten_observation_leaves_images_alone_unless_asked(dtype: Any) -> None:
    env = pixels(dtype)
    assert flatten_observation(env) is env
    obs, _ = play(flatten_observation(env, images=True), [])
    assert obs.dtype == jnp.float32
    np.testing.assert_array_equal(obs, np.arange(12).astype(dtype).astype(np.float32))
    mixed = map_observation(env, lambda obs: {"image": obs, "speed": jnp.ones(2)}, {
        "image": env.observation_space, "speed": box(0, 1, (2,))})  # fmt: skip
    masked = map_observation(env, lambda obs: {"observation": obs, "action_mask": jnp.ones(2, bool)}, {
        "observation": env.observation_space, "action_mask": box(0, 1, (2,), np.bool_)})  # fmt: skip
    assert flatten_observation(masked) is masked
    with pytest.raises(ValueError, match="images=True"):
        flatten_observation(mixed)
    obs, _ = play(flatten_observation(mixed, images=True), [])
    assert obs.shape == (14,)


def test_float_planes_are_flattened() -> None:
    obs, _ = play(flatten_observation(pixels(np.float32)), [])
    assert obs.shape == (12,)


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


def test_time_limit_truncates_counts_from_each_reset_and_leaves_terminations(key: jax.Array) -> None:
    env = time_limit(probes.scripted(terminate_at=(2,), truncate_at=()), 2)
    _, timesteps = play(env, [integer(0)] * 2)
    assert [bool(t.truncated) for t in timesteps] == [False, True]
    assert [bool(t.terminated) for t in timesteps] == [False, True]
    env = time_limit(probes.scripted(terminate_at=(), truncate_at=()), 4)
    actions = jnp.zeros((10, 1), jnp.int32).at[1, 0].set(3)  # an end of its own after two steps
    _, _, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(np.flatnonzero(ts.terminated[:, 0]), [1])
    np.testing.assert_array_equal(np.flatnonzero(ts.truncated[:, 0]), [5, 9])
    with pytest.raises(ValueError, match="at least 1"):
        time_limit(env, 0)


def test_mask_observation_keeps_the_named_entries_in_their_order() -> None:
    env = mask_observation(probes.scripted(terminate_at=(9,)), (1,))
    assert env.observation_space == box(0, np.inf, (1,))
    obs, timesteps = play(env, [integer(0)] * 2)
    np.testing.assert_array_equal([obs, timesteps[0].obs, timesteps[1].final_obs], [[0], [1], [2]])
    swapped, _ = play(mask_observation(probes.chain(), (4, 0)), [], seed=3)
    whole, _ = play(probes.chain(), [], seed=3)
    np.testing.assert_array_equal(swapped, whole[np.array([4, 0])])
    for bad in ((), (5,), (-1,), (1, 1)):
        with pytest.raises(ValueError, match=r"in 0 \.\. 4"):
            mask_observation(probes.chain(), bad)


def test_errors_advise_what_helps() -> None:
    """Flattening makes a vector of an image only if told so, and none of what actor and critic see apart."""
    with pytest.raises(ValueError, match=r"needs a vector as observation.*use flatten_observation before it") as error:
        mask_observation(nested(), (0,))
    assert "images" not in str(error.value)
    mask_observation(flatten_observation(nested()), (0,))
    with pytest.raises(ValueError, match=r"needs a vector.*use flatten_observation\(env, images=True\)"):
        mask_observation(pixels(), (0,))
    mask_observation(flatten_observation(pixels(), images=True), (0,))
    with pytest.raises(ValueError, match=r"needs a vector.*use map_observation to choose what the actor sees") as error:
        mask_observation(asymmetric(), (0,))
    assert "flatten" not in str(error.value)


def test_mask_observation_of_an_entry_leaves_the_others() -> None:
    obs, _ = play(mask_observation(probes.masked(), (1, 0)), [])
    whole, _ = play(probes.masked(), [])
    np.testing.assert_array_equal(obs["observation"], whole["observation"][np.array([1, 0])])
    np.testing.assert_array_equal(obs["action_mask"], whole["action_mask"])


def test_append_previous_shows_what_was_done_and_what_came_of_it(key: jax.Array) -> None:
    env = append_previous(probes.scripted(terminate_at=(), truncate_at=(2,), random_start=False))
    actions = jnp.array([[1], [2], [0]], jnp.int32)
    _, obs, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(obs[0], [0, 0, 0, 0, 0, 0, 0, 0])
    # start, time, one-hot of five actions, reward
    np.testing.assert_array_equal(ts.obs[0, 0], [0, 1, 0, 1, 0, 0, 0, 101])
    np.testing.assert_array_equal(ts.final_obs[1, 0], [0, 2, 0, 0, 1, 0, 0, 202])
    np.testing.assert_array_equal(ts.obs[1, 0], [0, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(ts.obs[2, 0], [0, 1, 1, 0, 0, 0, 0, 100])


def test_append_previous_takes_continuous_and_compound_actions_as_they_are() -> None:
    _, (step,) = play(append_previous(probes.reward_by_distance(target=0.0, action_dim=2)), [jnp.array([0.5, -1.0])])
    np.testing.assert_allclose(step.obs, [1, 0.5, -1, -1.25])
    action = {"choice": integer(1), "push": jnp.array([0.5, 0.5])}
    _, (step,) = play(append_previous(probes.reward_by_mixed_action()), [action])
    np.testing.assert_allclose(step.obs, [1, 0, 1, 0, 0.5, 0.5, 0])


def test_append_previous_to_what_is_no_vector_is_entries_beside_it(key: jax.Array) -> None:
    env = append_previous(plane())
    space: Any = env.observation_space
    assert space == {
        "observation": box(0, 255, (2, 3), np.uint8),
        "previous_action": box(0, 1, (5,)),
        "previous_reward": box(-np.inf, np.inf, (1,)),
    }
    actions = jnp.array([[1], [2], [0], [1]], jnp.int32)
    _, obs, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(obs["previous_action"][0], np.zeros(5))
    np.testing.assert_array_equal(obs["previous_reward"][0], [0])
    assert obs["observation"].dtype == jnp.uint8
    # The episode is cut after three steps: what led there is seen in final_obs and not in the new one.
    np.testing.assert_array_equal(ts.final_obs["observation"][:, 0, 0, 0], [1, 2, 3, 1])
    np.testing.assert_array_equal(ts.final_obs["previous_action"][:, 0], np.eye(5)[[1, 2, 0, 1]])
    np.testing.assert_array_equal(ts.final_obs["previous_reward"][:, 0, 0], [101, 202, 300, 101])
    np.testing.assert_array_equal(ts.obs["observation"][:, 0, 0, 0], [1, 2, 0, 1])
    np.testing.assert_array_equal(ts.obs["previous_action"][:, 0].sum(-1), [1, 1, 0, 1])
    np.testing.assert_array_equal(ts.obs["previous_reward"][:, 0, 0], [101, 202, 0, 101])
    _, (step,) = play(append_previous(nested()), [integer(1)])
    np.testing.assert_array_equal(step.obs["a"], [-1, -1, -1])
    assert set(step.obs) == {"a", "z", "previous_action", "previous_reward"}
    np.testing.assert_array_equal(step.obs["previous_action"], [0, 1])
    with pytest.raises(ValueError, match="shows the previous action or reward already"):
        append_previous(env)


@pytest.mark.parametrize("outside", [False, True])
def test_append_previous_is_seen_by_actor_and_critic_and_leaves_the_mask(outside: bool) -> None:
    env, whole = append_previous(asymmetric(outside)), probes.masked()
    check_env(env)
    (_, (ts,)), (_, (true,)) = play(env, [integer(4)]), play(whole, [integer(4)])
    for obs in (ts.obs, ts.final_obs):
        np.testing.assert_array_equal(action_mask(obs), true.obs["action_mask"])
        assert ("action_mask" in obs, "action_mask" in obs["actor"]) == (outside, not outside)
        before = np.concatenate([np.eye(6)[4], true.reward[None]])
        np.testing.assert_array_equal(obs["actor"]["observation"], np.concatenate([true.obs["observation"], before]))
        assert set(obs["critic"]) == {"x", "level", "previous_action", "previous_reward"}
        seen = [obs["critic"]["previous_action"], obs["critic"]["previous_reward"]]
        np.testing.assert_array_equal(np.concatenate(seen), before)


def test_the_order_says_which_action_is_shown() -> None:
    inner = probes.scripted(terminate_at=(), truncate_at=(), random_start=False)
    actions = [integer(a) for a in np.random.default_rng(0).integers(0, 3, 40)]
    given = np.asarray(actions)
    for env, shows_the_given in (
        (append_previous(sticky_actions(inner, 0.5)), True),
        (sticky_actions(append_previous(inner), 0.5), False),
    ):
        _, steps = play(env, actions)
        shown = np.array([np.argmax(s.obs[2:7]) for s in steps])
        carried = np.array([int(s.reward) % 100 for s in steps])
        assert (carried != given).sum() > 5
        np.testing.assert_array_equal(shown, given if shows_the_given else carried)


def test_a_cnn_with_a_memory_sees_the_previous_action_and_reward() -> None:
    env = append_previous(pp.make("Breakout-MinAtar"))
    space: Any = env.observation_space
    assert {name: part.shape for name, part in space.items()} == {
        "observation": (10, 10, 4),
        "previous_action": (3,),
        "previous_reward": (1,),
    }
    network = pp.make_network(env, pp.NetworkConfig(kind="gru", encoder="cnn", hidden_sizes=(8,), rnn_size=8))
    config = pp.Config(num_envs=4, num_steps=8, num_minibatches=2, num_epochs=2, total_timesteps=32)
    state, metrics = quick_jit(lambda key: pp.train(pp.make_ppo(env, network, config), key))(jax.random.key(0))
    assert (metrics.first_ratio_error < 1e-5).all()
    assert (metrics.kl > 0).all()
    kernels = [x.shape for x in jax.tree.leaves(state.params)]
    assert (3, 3, 4, 16) in kernels  # convolved, and the action and reward beside the features: 8 * 8 * 16 + 3 + 1
    assert (1028, 8) in kernels


def test_frame_stack_shows_the_last_observations_and_starts_anew(key: jax.Array) -> None:
    env = frame_stack(probes.scripted(terminate_at=(), truncate_at=(3,)), 3)
    _, obs, _, ts = rollout(env, jnp.zeros((5, 2), jnp.int32), key)
    first, second = np.asarray(obs)[1, 0], np.asarray(ts.obs)[2, 1, 0]

    def stack(start: float, times: list[int]) -> list[float]:
        return [x for time in times for x in (start, time)]

    np.testing.assert_array_equal(obs[1], stack(first, [0, 0, 0]))
    np.testing.assert_array_equal(ts.obs[1, 1], stack(first, [0, 1, 2]))
    np.testing.assert_array_equal(ts.final_obs[2, 1], stack(first, [1, 2, 3]))
    np.testing.assert_array_equal(ts.obs[2, 1], stack(second, [0, 0, 0]))
    np.testing.assert_array_equal(ts.obs[3, 1], stack(second, [0, 0, 1]))
    assert first != second
    images = frame_stack(pixels(), 2)
    assert isinstance(images.observation_space, Box)
    assert images.observation_space.shape == (2, 3, 4)
    assert play(images, [])[0].dtype == jnp.uint8
    with pytest.raises(ValueError, match="num_frames >= 1"):
        frame_stack(probes.chain(), 0)


def test_frames_without_channels_are_stacked_as_channels(key: jax.Array) -> None:
    env = frame_stack(plane(), 2)
    assert env.observation_space == box(0, 255, (2, 3, 2), np.uint8)
    _, obs, _, ts = rollout(env, jnp.zeros((4, 1), jnp.int32), key)
    # Every pixel shows the time; a channel is a time.
    for seen, times in (
        (obs, [[0, 0]]),
        (ts.obs[:, 0], [[0, 1], [1, 2], [0, 0], [0, 1]]),
        (ts.final_obs[:, 0], [[0, 1], [1, 2], [2, 3], [0, 1]]),
    ):
        assert seen.dtype == jnp.uint8
        np.testing.assert_array_equal(seen, np.broadcast_to(np.array(times)[:, None, None], (len(times), 2, 3, 2)))


def test_frame_stack_of_a_dict_stacks_every_part_by_itself(key: jax.Array) -> None:
    env = frame_stack(time_limit(nested(), 2), 2)
    integers = box(0, 9, (2, 2, 2), np.int32)
    assert env.observation_space == {"a": box(-5, 5, (6,)), "z": (MultiDiscrete((4, 4)), integers)}
    _, obs, _, ts = rollout(env, jnp.zeros((3, 1), jnp.int32), key)
    for seen, times in (
        (obs, [[0, 0]]),
        (jax.tree.map(lambda x: x[:, 0], ts.obs), [[0, 1], [0, 0], [0, 1]]),
        (jax.tree.map(lambda x: x[:, 0], ts.final_obs), [[0, 1], [1, 2], [0, 1]]),
    ):
        np.testing.assert_array_equal(seen["a"], -np.repeat(times, 3, axis=-1))
        np.testing.assert_array_equal(seen["z"][0], times)
        np.testing.assert_array_equal(seen["z"][1][:, 1, 0], times)


@pytest.mark.parametrize("outside", [False, True])
def test_frame_stack_of_an_asymmetric_observation_leaves_the_mask(outside: bool) -> None:
    env, whole = frame_stack(asymmetric(outside), 2), probes.masked()
    check_env(env)
    (first, (ts,)), (before, (true,)) = play(env, [integer(4)]), play(whole, [integer(4)])
    np.testing.assert_array_equal(action_mask(first), before["action_mask"])
    for obs in (ts.obs, ts.final_obs):
        np.testing.assert_array_equal(action_mask(obs), true.obs["action_mask"])
        expected = np.concatenate([before["observation"], true.obs["observation"]])
        np.testing.assert_array_equal(obs["actor"]["observation"], expected)
        np.testing.assert_array_equal(obs["critic"]["x"], expected)
        assert obs["critic"]["level"].shape == (2, 2, 2)


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


# --- masks that environments keep to themselves -----------------------------------------------------------


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


# --- names ------------------------------------------------------------------------------------------------


def names_kept() -> dict[str, Env]:
    """A named environment through every wrapper."""
    chain, push = probes.chain()._replace(name="Chain"), probes.reward_by_distance()._replace(name="Chain")
    wrappers: dict[str, Any] = {
        "conform": conform,
        "map_observation": lambda env: map_observation(env, lambda obs: obs, env.observation_space),
        "flatten_observation": flatten_observation,
        "time_limit": lambda env: time_limit(env, 3),
        "mask_observation": lambda env: mask_observation(env, [1]),
        "append_previous": append_previous,
        "frame_stack": lambda env: frame_stack(env, 2),
        "sticky_actions": sticky_actions,
        "with_action_mask": lambda env: with_action_mask(env, lambda state, obs: jnp.ones(2, bool)),
    }
    named = {name: wrapper(chain) for name, wrapper in wrappers.items()}
    return named | {"clip_action": clip_action(push), "rescale_action": rescale_action(push)}


def test_wrappers_keep_the_name_and_messages_say_it() -> None:
    assert {env.name for env in names_kept().values()} == {"Chain"}
    broken = probes.chain()._replace(name="Chain", observation_space=box(0, 1, (7,)))
    with pytest.raises(ValueError, match="the environment Chain does not keep to the protocol"):
        check_env(broken)
