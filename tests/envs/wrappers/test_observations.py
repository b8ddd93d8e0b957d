"""Wrappers of observations: contents and spaces; masks, actor and critic stay separate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from odd_envs import asymmetric, nested, pixels, plane
from probes import integer, play, quick_jit, rollout

import purejaxppo as pp
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.masks import action_mask
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
)
from purejaxppo.envs.wrappers.actions import sticky_actions
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
    mask_observation,
)


def test_flatten_observation_encodes_everything_in_order_of_sorted_keys() -> None:
    env = flatten_observation(nested())
    assert env.observation_space == Box(
        np.array([-5] * 3 + [0] * 8, np.float32),
        np.array([5] * 3 + [1] * 4 + [9] * 4, np.float32),
        codes=np.array([False] * 3 + [True] * 4 + [False] * 4),
    )
    obs, timesteps = play(env, [integer(0)] * 2)
    np.testing.assert_array_equal(obs, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(timesteps[1].obs, [-2, -2, -2, 0, 0, 1, 0, 2, 2, 2, 2])
    np.testing.assert_array_equal(timesteps[1].final_obs, timesteps[1].obs)


def test_flatten_observation_keeps_action_masks() -> None:
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
def test_flatten_observation_keeps_actor_critic_and_mask_separate(outside: bool) -> None:
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


def test_flatten_observation_treats_images_of_actor_and_critic_separately() -> None:
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
def test_flatten_observation_keeps_images_by_default(dtype: Any) -> None:
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


def test_errors_suggest_a_wrapper() -> None:
    """Flattening makes a vector of an image only on request, and never of asymmetric observations."""
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


def test_append_previous_shows_the_previous_action_and_reward(key: jax.Array) -> None:
    env = append_previous(probes.scripted(terminate_at=(), truncate_at=(2,), random_start=False))
    actions = jnp.array([[1], [2], [0]], jnp.int32)
    _, obs, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(obs[0], [0, 0, 0, 0, 0, 0, 0, 0])
    # start, time, one-hot of five actions, reward
    np.testing.assert_array_equal(ts.obs[0, 0], [0, 1, 0, 1, 0, 0, 0, 101])
    np.testing.assert_array_equal(ts.final_obs[1, 0], [0, 2, 0, 0, 1, 0, 0, 202])
    np.testing.assert_array_equal(ts.obs[1, 0], [0, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(ts.obs[2, 0], [0, 1, 1, 0, 0, 0, 0, 100])


def test_append_previous_shows_continuous_and_compound_actions() -> None:
    _, (step,) = play(append_previous(probes.reward_by_distance(target=0.0, action_dim=2)), [jnp.array([0.5, -1.0])])
    np.testing.assert_allclose(step.obs, [1, 0.5, -1, -1.25])
    action = {"choice": integer(1), "push": jnp.array([0.5, 0.5])}
    _, (step,) = play(append_previous(probes.reward_by_mixed_action()), [action])
    np.testing.assert_allclose(step.obs, [1, 0, 1, 0, 0.5, 0.5, 0])


def test_append_previous_adds_entries_to_observations_that_are_not_vectors(key: jax.Array) -> None:
    env = append_previous(plane())
    space: Any = env.observation_space
    assert space == {
        "observation": box(0, 255, (2, 3), np.uint8),
        "previous_action": box(0, 1, (5,), codes=True),
        "previous_reward": box(-np.inf, np.inf, (1,)),
    }
    actions = jnp.array([[1], [2], [0], [1]], jnp.int32)
    _, obs, _, ts = rollout(env, actions, key)
    np.testing.assert_array_equal(obs["previous_action"][0], np.zeros(5))
    np.testing.assert_array_equal(obs["previous_reward"][0], [0])
    assert obs["observation"].dtype == jnp.uint8
    # The episode is truncated after three steps: final_obs shows the last action, the next obs does not.
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


def test_the_order_of_wrappers_decides_which_action_is_shown() -> None:
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


@pytest.mark.slow
def test_a_recurrent_cnn_reads_the_previous_action_and_reward() -> None:
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
    assert (3, 3, 4, 16) in kernels  # convolved, then concatenated with action and reward: 8 * 8 * 16 + 3 + 1
    assert (1028, 8) in kernels


def test_frame_stack_shows_the_last_observations_of_the_episode(key: jax.Array) -> None:
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
    # Every pixel shows the time, so channels differ by time.
    for seen, times in (
        (obs, [[0, 0]]),
        (ts.obs[:, 0], [[0, 1], [1, 2], [0, 0], [0, 1]]),
        (ts.final_obs[:, 0], [[0, 1], [1, 2], [2, 3], [0, 1]]),
    ):
        assert seen.dtype == jnp.uint8
        np.testing.assert_array_equal(seen, np.broadcast_to(np.array(times)[:, None, None], (len(times), 2, 3, 2)))


def test_frame_stack_of_a_dict_stacks_every_entry_separately(key: jax.Array) -> None:
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
