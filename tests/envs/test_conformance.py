"""Resets happen in one place and as said; the protocol is kept; probes are what they claim."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, quick_jit, rollout

from purejaxppo.envs.auto_reset import RESETS, auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
    encode,
    encoded_space,
    normalized_leaves,
    sample_space,
    zero_of,
)
from purejaxppo.envs.wrappers.episodes import time_limit


def replay_scripted(
    starts: np.ndarray, first: np.ndarray, actions: np.ndarray, terminate_at: tuple, truncate_at: tuple
) -> dict[str, np.ndarray]:
    """`scripted` under auto-reset as a slow loop; starts [T, N] are those of the resets, first [N] of reset()."""
    num_steps, num_envs = actions.shape
    names = ("obs", "reward", "terminated", "truncated", "final_obs")
    out: dict[str, list] = {name: [] for name in names}
    start, time = first.copy(), np.zeros(num_envs, int)
    for t in range(num_steps):
        row: dict[str, list] = {name: [] for name in names}
        for n in range(num_envs):
            time[n] += 1
            row["final_obs"].append((start[n], time[n]))
            row["reward"].append(100 * time[n] + actions[t, n])
            terminated = time[n] in terminate_at or actions[t, n] == 3
            truncated = (time[n] in truncate_at or actions[t, n] == 4) and not terminated
            if terminated or truncated:
                start[n], time[n] = starts[t, n], 0
            row["obs"].append((start[n], time[n]))
            row["terminated"].append(terminated)
            row["truncated"].append(truncated)
        for name in names:
            out[name].append(row[name])
    return {name: np.array(rows) for name, rows in out.items()}


# --- auto_reset -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", RESETS)
def test_auto_reset_matches_a_slow_loop(resets: str, key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(4,), truncate_at=(4, 6))
    actions = jax.random.categorical(
        jax.random.key(5), jnp.log(jnp.array([5.0, 5.0, 5.0, 1.0, 1.0])), shape=(60, 7)
    ).astype(jnp.int32)
    noise, obs, _, timesteps = rollout(env, actions, key, resets, pool_size=16)
    first = np.asarray(obs)[:, 0]
    starts = np.asarray(
        jax.vmap(jax.vmap(env.reset))(jax.random.clone(noise.reset))[1] if resets == "every_step" else noise.reset[1]
    )[..., 0]
    expected = replay_scripted(starts, first, np.asarray(actions), (4,), (4, 6))
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(getattr(timesteps, name)), value, err_msg=name)
    assert expected["terminated"].any()
    assert expected["truncated"].any()


def test_both_flags_at_once_terminated_wins_and_the_raw_environment_shows_both(key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(3,), truncate_at=(3,))
    _, timesteps = play(env, [integer(0)] * 3)
    assert bool(timesteps[2].terminated)
    assert bool(timesteps[2].truncated)
    _, _, _, vec = rollout(env, jnp.zeros((7, 2), jnp.int32), key)
    np.testing.assert_array_equal(vec.terminated[:, 0], [False, False, True, False, False, True, False])
    assert not vec.truncated.any()


def test_two_episodes_the_final_observation_is_before_the_reset(key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(), truncate_at=(3,))
    noise, obs, _, ts = rollout(env, jnp.zeros((6, 1), jnp.int32), key)
    times, final_times = np.asarray(ts.obs)[:, 0, 1], np.asarray(ts.final_obs)[:, 0, 1]
    np.testing.assert_array_equal(times, [1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(final_times, [1, 2, 3, 1, 2, 3])
    starts, final_starts = np.asarray(ts.obs)[:, 0, 0], np.asarray(ts.final_obs)[:, 0, 0]
    one, two, three = obs[0, 0], noise.reset[1][2, 0, 0], noise.reset[1][5, 0, 0]
    np.testing.assert_array_equal(starts, [one, one, two, two, two, three])
    np.testing.assert_array_equal(final_starts, [one, one, one, two, two, two])
    assert len({float(one), float(two), float(three)}) == 3


def test_reset_modes_give_bitwise_the_same_transitions_of_a_deterministic_environment(key: jax.Array) -> None:
    env = time_limit(probes.scripted(terminate_at=(5,), truncate_at=(), random_start=False), 4)
    actions = jax.random.randint(jax.random.key(1), (40, 5), 0, 5, jnp.int32)
    runs = [rollout(env, actions, key, resets)[2:] for resets in RESETS]
    for run in runs[1:]:
        jax.tree.map(np.testing.assert_array_equal, runs[0], run)


@pytest.mark.parametrize("resets", RESETS)
def test_first_states_have_the_right_distribution(resets: str, key: jax.Array) -> None:
    tabular = probes.chain_tabular(end=0.5)
    env = probes.chain(tabular)
    _, obs, _, ts = rollout(env, jnp.zeros((200, 50), jnp.int32), key, resets, pool_size=2000)
    started = np.asarray(ts.obs)[np.asarray(ts.terminated)]
    share = started.mean(0)
    # 5000 episodes: a standard error of .006; the pool's 2000 draws add .009.
    assert len(started) > 4500
    np.testing.assert_allclose(share, tabular.start, atol=0.04)
    np.testing.assert_allclose(np.asarray(obs).mean(0), tabular.start, atol=0.25)


def test_how_many_first_states_each_mode_makes(key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(1,))
    actions = jnp.zeros((30, 20), jnp.int32)
    distinct = {}
    for resets in RESETS:
        _, _, _, ts = rollout(env, actions, key, resets, pool_size=8)
        distinct[resets] = len(np.unique(np.asarray(ts.obs)[..., 0]))
    assert distinct == {"fresh": 600, "every_step": 600, "pool": 8}


def test_the_pool_is_drawn_anew_for_each_rollout_and_never_larger_than_it(key: jax.Array) -> None:
    env = probes.scripted()
    noise = jax.jit(auto_reset(env, "pool", pool_size=8).noise, static_argnums=(1, 2))
    pools = [set(np.unique(noise(k, 10, 20).reset[1][..., 0]).tolist()) for k in jax.random.split(key)]
    assert [len(p) for p in pools] == [8, 8]
    assert not pools[0] & pools[1]
    assert len(np.unique(noise(jax.random.key(3), 2, 2).reset[1][..., 0])) <= 4
    # Each step and each environment draws for itself, all of the pool alike: 320 draws of 8.
    drawn = np.asarray(noise(jax.random.key(4), 16, 20).reset[1])[..., 0]
    counts = [int((drawn == x).sum()) for x in np.unique(drawn)]
    assert len(counts) == 8
    assert 20 < min(counts) <= max(counts) < 64
    assert all(len(np.unique(row)) > 3 for row in (*drawn, *drawn.T))


def test_all_randomness_of_a_step_is_in_its_noise(key: jax.Array) -> None:
    vec = auto_reset(probes.chain())
    env_state, _ = vec.reset(jax.random.key(1), 4)
    noise = jax.tree.map(lambda x: x[0], vec.noise(key, 2, 4))
    step = quick_jit(vec.step)
    once, twice = (step(noise._replace(step_key=jax.random.clone(noise.step_key)), env_state, jnp.ones(4, jnp.int32))
                   for _ in range(2))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, once, twice)


def test_environments_do_not_touch_each_other(key: jax.Array) -> None:
    vec = auto_reset(probes.scripted(terminate_at=(2,), truncate_at=()))
    env_state, _ = vec.reset(jax.random.key(1), 6)
    noise = jax.tree.map(lambda x: x[0], vec.noise(key, 1, 6))
    actions, order = jnp.array([0, 1, 2, 3, 4, 0], jnp.int32), np.array([3, 1, 5, 0, 2, 4])
    permuted = jax.tree.map(lambda x: x[order], (noise, env_state, actions))
    step = quick_jit(vec.step)
    straight = jax.tree.map(lambda x: x[order], step(jax.tree.map(jnp.copy, noise), env_state, actions))
    jax.tree.map(np.testing.assert_array_equal, step(*permuted), straight)


@pytest.mark.parametrize("resets", RESETS)
def test_states_that_hold_typed_keys_are_reset_too(resets: str, key: jax.Array) -> None:
    env = probes.masked(num_actions=6, num_steps=3)
    vec = auto_reset(env, resets, pool_size=5)

    @quick_jit
    def run(key: jax.Array) -> TimeStep:
        key_reset, key_noise = jax.random.split(key)

        def step(loop: tuple, noise: Any) -> tuple:
            env_state, wanted = loop
            env_state, ts = vec.step(noise, env_state, wanted)
            return (env_state, jnp.argmax(ts.obs["observation"], -1).astype(jnp.int32)), ts

        env_state, obs = vec.reset(key_reset, 4)
        first = jnp.argmax(obs["observation"], -1).astype(jnp.int32)
        return jax.lax.scan(step, (env_state, first), vec.noise(key_noise, 12, 4))[1]

    ts = run(key)
    np.testing.assert_array_equal(ts.reward, np.ones((12, 4)))
    np.testing.assert_array_equal(ts.terminated, np.tile((np.arange(12) % 3 == 2)[:, None], (1, 4)))
    shown = np.asarray(ts.obs["observation"], bool)
    assert (np.asarray(ts.obs["action_mask"]) >= shown).all()
    # Within an episode every step has its own mask: the key in the state moves on.
    masks = np.asarray(ts.final_obs["action_mask"])[:3, 0]
    assert len(np.unique(masks, axis=0)) > 1


def test_auto_reset_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'fresh', 'every_step', 'pool', not 'sometimes'"):
        auto_reset(probes.endless(), "sometimes")
    with pytest.raises(ValueError, match="pool_size must be at least 1"):
        auto_reset(probes.endless(), "pool", pool_size=0)


# --- spaces -----------------------------------------------------------------------------------------------


def test_box_is_compared_by_value_and_checks_its_bounds() -> None:
    assert box(0, 1, (3,)) == box(0, 1, (3,))
    assert box(0, 1, (3,)) != box(0, 2, (3,))
    assert box(0, 1, (3,)) != box(0, 1, (3,), np.int32)
    assert hash(box(0, 1, (3,))) == hash(box(0, 1, (3,)))
    assert box(-np.inf, np.inf, (2,), np.uint8) == box(0, 255, (2,), np.uint8)
    with pytest.raises(ValueError, match=r"low has \(2,\) float32, high has \(3,\) float32"):
        Box(np.zeros(2, np.float32), np.zeros(3, np.float32))


def test_samples_fill_their_space_uniformly(key: jax.Array) -> None:
    space = {
        "d": Discrete(3),
        "m": (MultiDiscrete((2, 5)), box(-2, 3, (2, 2))),
        "u8": box(0, 255, (4,), np.uint8),
        "b": box(0, 1, (3,), np.bool_),
    }
    draw = quick_jit(jax.vmap(partial(sample_space, space)))(jax.random.split(key, 4000))
    multi, real = draw["m"]
    assert jax.tree.structure(draw) == jax.tree.structure(jax.vmap(lambda _: zero_of(space))(jnp.arange(2)))
    assert draw["d"].dtype == jnp.int32
    assert draw["u8"].dtype == jnp.uint8
    assert draw["b"].dtype == jnp.bool_
    for values, n in ((draw["d"], 3), (multi[:, 0], 2), (multi[:, 1], 5), (draw["b"][:, 0].astype(int), 2)):
        share = np.bincount(np.asarray(values), minlength=n) / 4000
        assert share.shape == (n,)
        np.testing.assert_allclose(share, 1 / n, atol=0.04)
    assert (int(draw["u8"].min()), int(draw["u8"].max())) == (0, 255)
    real = np.asarray(real)
    assert real.min() >= -2
    assert real.max() <= 3
    np.testing.assert_allclose(np.quantile(real, [0.25, 0.5, 0.75]), [-0.75, 0.5, 1.75], atol=0.1)


def test_samples_of_unbounded_boxes_are_finite_and_keep_the_bound_they_have(key: jax.Array) -> None:
    largest = np.finfo(np.float32).max
    low = np.array([-largest, -np.inf, 2, -np.inf], np.float32)
    high = np.array([largest, np.inf, np.inf, -1], np.float32)
    draw = np.asarray(quick_jit(jax.vmap(partial(sample_space, Box(low, high))))(jax.random.split(key, 2000)))
    assert np.isfinite(draw).all()
    assert (draw >= low).all()
    assert (draw <= high).all()
    np.testing.assert_allclose(draw.mean(0), [0, 0, 3, -2], atol=0.15)


def test_encode_is_one_hot_and_ravel_by_sorted_key() -> None:
    space = {"b": (Discrete(3), box(-1, 1, (2, 2))), "a": MultiDiscrete((2, 3))}
    element = {"b": (integer(2), jnp.arange(4.0).reshape(2, 2)), "a": jnp.array([1, 0], jnp.int32)}
    np.testing.assert_array_equal(encode(space, element), [0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 2, 3])
    assert encoded_space(space) == Box(np.array([0] * 8 + [-1] * 4, np.float32), np.array([1] * 12, np.float32))


# --- keeping to the protocol ------------------------------------------------------------------------------


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
    assert env.observation_space == {"n": box(0, 1, (3,)), "height": box(-1, 1, (1,)), "grid": whole}
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


# --- masks ------------------------------------------------------------------------------------------------


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


# --- the probes are what they claim -----------------------------------------------------------------------


def test_the_simulated_chain_has_the_exported_transition_matrix(key: jax.Array) -> None:
    tabular, env, size = probes.chain_tabular(), probes.chain(), 5
    keys = jax.random.split(key, (size, 2, 20_000))
    states, actions = jnp.arange(size, dtype=jnp.int32), jnp.arange(2, dtype=jnp.int32)
    step = jax.vmap(env.step, (0, None, None))
    step = jax.vmap(jax.vmap(step, (0, None, 0)), (0, 0, None))
    there, timesteps = quick_jit(step)(keys, states, actions)
    there = np.where(timesteps.terminated, size, there)
    counts = np.stack([(there == s).mean(-1) for s in range(size + 1)], -1)
    ended = 1 - tabular.transition.sum(2, keepdims=True)
    np.testing.assert_allclose(counts, np.concatenate([tabular.transition, ended], 2), atol=0.015)
    np.testing.assert_allclose(timesteps.reward[..., 0], tabular.reward, rtol=1e-6)


def test_the_chain_is_solved_exactly_by_policy_iteration() -> None:
    tabular, gamma = probes.chain_tabular(), 0.95
    best = max(
        float(tabular.start @ iterate_value(tabular, np.array(choice), gamma))
        for choice in itertools.product(range(2), repeat=5)
    )
    policy = tabular.best_policy(gamma)
    np.testing.assert_allclose(tabular.start @ tabular.value(policy, gamma), best, rtol=1e-9)
    # Worth solving: neither always left nor chance comes near.
    for poor in (np.eye(2)[np.zeros(5, int)], np.full((5, 2), 0.5)):
        assert tabular.start @ tabular.value(poor, gamma) < 0.7 * best


def iterate_value(tabular: probes.Tabular, choice: np.ndarray, gamma: float) -> np.ndarray:
    """V of a deterministic policy by 2000 sweeps."""
    value = np.zeros(5)
    for _ in range(2000):
        value = np.array(
            [tabular.reward[s, a] + gamma * tabular.transition[s, a] @ value for s, a in enumerate(choice)]
        )
    return value


def pay(env: Env, action: Any, num_envs: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Observation [N, D] and reward [N] of one step that ends the episode; action(obs) of one environment."""

    def one(key: jax.Array) -> tuple[jax.Array, TimeStep]:
        key_reset, key_step = jax.random.split(key)
        env_state, obs = env.reset(key_reset)
        return obs, env.step(key_step, env_state, action(obs))[1]

    obs, timestep = quick_jit(jax.vmap(one))(jax.random.split(jax.random.key(1), num_envs))
    assert np.asarray(timestep.terminated).all()
    return np.asarray(obs), np.asarray(timestep.reward)


@pytest.mark.parametrize("number", [0, 1])
def test_one_step_probes_pay_what_they_say(number: int) -> None:
    sign = 2 * number - 1
    assert (pay(probes.constant_reward(), lambda obs: integer(number))[1] == 1).all()
    assert (pay(probes.reward_by_action(), lambda obs: integer(number))[1] == sign).all()
    obs, reward = pay(probes.reward_is_observation(), lambda obs: integer(number))
    np.testing.assert_array_equal(reward, obs[:, 0])
    assert set(reward) == {-1, 1}
    obs, reward = pay(probes.reward_by_action_and_observation(), lambda obs: integer(number))
    np.testing.assert_array_equal(reward, sign * obs[:, 0])
    _, reward = pay(probes.reward_by_distance(0.25), lambda obs: jnp.full(1, 0.25 + number))
    np.testing.assert_array_equal(reward, -np.full(16, number))


def test_many_actions_probe_pays_the_share_hit() -> None:
    def wanted(obs: jax.Array, off: int) -> jax.Array:
        second = (jnp.argmax(obs[3:]) + off) % 4
        return jnp.stack([jnp.argmax(obs[:3]), second]).astype(jnp.int32)

    for off, share in ((0, 1.0), (1, 0.5)):
        obs, reward = pay(probes.reward_by_many_actions((3, 4)), partial(wanted, off=off))
        assert (reward == share).all()
        np.testing.assert_array_equal([obs[:, :3].sum(1), obs[:, 3:].sum(1)], np.ones((2, 16)))
    assert len(np.unique(obs, axis=0)) > 4


def test_longer_probes_pay_and_end_as_they_say() -> None:
    obs, timesteps = play(probes.two_steps(), [integer(0)] * 2)
    assert [float(obs[0]), float(timesteps[0].obs[0])] == [0, 1]
    assert [float(t.reward) for t in timesteps] == [0, 1]
    assert [bool(t.terminated) for t in timesteps] == [False, True]
    _, timesteps = play(probes.endless(limit=3), [integer(0)] * 3)
    assert [float(t.reward) for t in timesteps] == [1, 1, 1]
    assert [bool(t.terminated) for t in timesteps] == [False] * 3
    assert [bool(t.truncated) for t in timesteps] == [False, False, True]
    env = probes.masked()
    state, obs = env.reset(jax.random.key(3))
    forbidden = jnp.argmin(obs["action_mask"]).astype(jnp.int32)
    assert not obs["action_mask"][forbidden]
    _, timestep = env.step(jax.random.key(4), state, forbidden)
    assert float(timestep.reward) == -10
    assert bool(timestep.terminated)


def test_normalisation_is_for_quantities_only():
    """In pytree order: dict keys sorted; masks, whatever their dtype, and codes stay as they are."""
    image = box(0, 255, (4, 4), np.uint8)
    space = {
        "z": Discrete(3),
        "action_mask": box(0, 1, (3,)),
        "b": (box(0, 1, (2,)), MultiDiscrete((2, 2))),
        "c": image,
    }
    assert normalized_leaves(space) == (False, True, False, True, False)
    assert normalized_leaves(space, on=False) == (False,) * 5
    seen = {"actor": {"x": box(0, 1, (2,)), "action_mask": box(0, 1, (3,))}, "critic": box(0, 1, (5,))}
    assert normalized_leaves(seen) == (False, True, True)  # a mask stays one inside of the actor's entry
    assert normalized_leaves(box(0, 1, (2,))) == (True,)
    assert normalized_leaves(Box(np.zeros(2, bool), np.ones(2, bool))) == (False,)
