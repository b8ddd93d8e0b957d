"""Tests of `auto_reset`: when and how finished episodes are reset."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from probes import integer, play, quick_jit, rollout

from purejaxppo.envs.auto_reset import RESETS, auto_reset, choose
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.episodes import time_limit


def replay_scripted(
    starts: np.ndarray, first: np.ndarray, actions: np.ndarray, terminate_at: tuple, truncate_at: tuple
) -> dict[str, np.ndarray]:
    """Run `scripted` under auto-reset as a slow loop; starts [T, N] are of the resets, first [N] of reset()."""
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


def first_states_by_hand(env: Env, resets: str, noise: Any, key: jax.Array, num_envs: int) -> np.ndarray:
    """Return the start [T, N] that every reset of `scripted` would give; key: that of `rollout`."""
    draw = jax.vmap(jax.vmap(lambda key: env.reset(key)[1][0]))
    if resets == "every_step":
        return np.asarray(draw(jax.random.clone(noise)))
    if resets != "state_pool":
        return np.asarray(noise[1])[..., 0]
    state, _ = auto_reset(env, resets, pool_size=16).reset(jax.random.split(jax.random.clone(key))[0], num_envs)
    pool, new = np.asarray(state.pool[0][1])[:, 0].copy(), np.asarray(draw(jax.random.clone(noise.refresh_key)))
    starts = []
    for t, index in enumerate(np.asarray(noise.index)):
        pool[t % 16] = new[t, 0]
        starts.append(pool[index])
    return np.stack(starts)


@pytest.mark.parametrize("resets", RESETS)
def test_auto_reset_matches_a_slow_loop(resets: str, key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(4,), truncate_at=(4, 6))
    actions = jax.random.categorical(
        jax.random.key(5), jnp.log(jnp.array([5.0, 5.0, 5.0, 1.0, 1.0])), shape=(60, 7)
    ).astype(jnp.int32)
    noise, obs, _, timesteps = rollout(env, actions, key, resets, pool_size=16)
    first = np.asarray(obs)[:, 0]
    starts = first_states_by_hand(env, resets, noise.reset, key, num_envs=7)
    expected = replay_scripted(starts, first, np.asarray(actions), (4,), (4, 6))
    for name, value in expected.items():
        np.testing.assert_array_equal(np.asarray(getattr(timesteps, name)), value, err_msg=name)
    assert expected["terminated"].any()
    assert expected["truncated"].any()


def test_a_pool_that_is_never_replaced_costs_no_reset_in_a_step(key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(1,))
    traced = []

    def reset(key: jax.Array) -> tuple:
        traced.append(key)
        return env.reset(key)

    vec = auto_reset(env._replace(reset=reset), "state_pool", pool_size=4, refresh=0)
    state, _ = vec.reset(key, 3)
    before, traced[:] = np.asarray(state.pool[0][1]), []
    noise = vec.noise(jax.random.key(1), 5, 3)
    for t in range(5):
        state, timestep = vec.step(jax.tree.map(lambda x, t=t: x[t], noise), state, jnp.zeros(3, jnp.int32))
        starts = np.asarray(timestep.obs)[:, 0]
        assert np.asarray(timestep.terminated).all()
        assert np.isin(starts, before[:, 0]).all()
    np.testing.assert_array_equal(np.asarray(state.pool[0][1]), before)
    assert not traced


def test_if_both_flags_are_set_terminated_wins(key: jax.Array) -> None:
    env = probes.scripted(terminate_at=(3,), truncate_at=(3,))
    _, timesteps = play(env, [integer(0)] * 3)
    assert bool(timesteps[2].terminated)
    assert bool(timesteps[2].truncated)
    _, _, _, vec = rollout(env, jnp.zeros((7, 2), jnp.int32), key)
    np.testing.assert_array_equal(vec.terminated[:, 0], [False, False, True, False, False, True, False])
    assert not vec.truncated.any()


def test_the_final_observation_precedes_the_reset(key: jax.Array) -> None:
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
    runs = [rollout(env, actions, key, resets)[3] for resets in RESETS]
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
    state_pool = distinct.pop("state_pool")  # 8, and one more in each of 30 steps; some are never drawn
    assert distinct == {"fresh": 600, "every_step": 600, "pool": 8}
    assert 30 < state_pool <= 38


def test_the_pool_is_drawn_for_each_rollout_and_is_not_larger_than_it(key: jax.Array) -> None:
    env = probes.scripted()
    noise = jax.jit(auto_reset(env, "pool", pool_size=8).noise, static_argnums=(1, 2))
    pools = [set(np.unique(noise(k, 10, 20).reset[1][..., 0]).tolist()) for k in jax.random.split(key)]
    assert [len(p) for p in pools] == [8, 8]
    assert not pools[0] & pools[1]
    assert len(np.unique(noise(jax.random.key(3), 2, 2).reset[1][..., 0])) <= 4
    # Each step and environment draws separately and uniformly from the pool: 320 draws of 8.
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


def test_environments_are_independent(key: jax.Array) -> None:
    vec = auto_reset(probes.scripted(terminate_at=(2,), truncate_at=()))
    env_state, _ = vec.reset(jax.random.key(1), 6)
    noise = jax.tree.map(lambda x: x[0], vec.noise(key, 1, 6))
    actions, order = jnp.array([0, 1, 2, 3, 4, 0], jnp.int32), np.array([3, 1, 5, 0, 2, 4])
    permuted = jax.tree.map(lambda x: x[order], (noise, env_state, actions))
    step = quick_jit(vec.step)
    straight = jax.tree.map(lambda x: x[order], step(jax.tree.map(jnp.copy, noise), env_state, actions))
    jax.tree.map(np.testing.assert_array_equal, step(*permuted), straight)


@pytest.mark.parametrize("resets", RESETS)
def test_states_with_typed_keys_are_reset(resets: str, key: jax.Array) -> None:
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
    # Within an episode every step has another mask, because the key in the state changes.
    masks = np.asarray(ts.final_obs["action_mask"])[:3, 0]
    assert len(np.unique(masks, axis=0)) > 1


def test_unknown_modes_and_invalid_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="'auto', 'fresh', 'every_step', 'pool', 'state_pool', not 'sometimes'"):
        auto_reset(probes.endless(), "sometimes")
    for sizes, said in (
        ({"pool_size": 0}, "pool_size must be at least 1"),
        ({"pool_size": 4, "refresh": 5}, "refresh must be from 0 to pool_size = 4"),
        ({"refresh": -1}, "refresh must be from 0"),
        ({"stagger": -1}, "stagger must be at least 0"),
    ):
        with pytest.raises(ValueError, match=said):
            auto_reset(probes.endless(), "state_pool", **sizes)


# --- randomness, memory and the state ---------------------------------------------------------------------


def dice(num_steps: int = 2) -> Env:
    """Make an environment that observes the random numbers of its last reset and step, and ends after `num_steps`."""

    def reset(key: jax.Array) -> tuple[tuple, jax.Array]:
        throw = jax.random.uniform(key)
        return (throw, jnp.int32(0)), jnp.stack([throw, throw])

    def step(key: jax.Array, state: tuple, action: jax.Array) -> tuple[tuple, TimeStep]:
        obs = jnp.stack([state[0], jax.random.uniform(key)])
        time = state[1] + 1
        return (state[0], time), TimeStep(obs, jnp.float32(0), time == num_steps, jnp.bool_(False), obs)

    return Env(reset, step, box(0, 1, (2,)), Discrete(2))


@pytest.mark.parametrize("resets", RESETS)
def test_no_two_steps_and_no_two_environments_share_their_randomness(resets: str, key: jax.Array) -> None:
    num_steps, num_envs = 16, 6
    _, obs, _, ts = rollout(dice(), jnp.zeros((num_steps, num_envs), jnp.int32), key, resets, pool_size=64)
    throws = np.asarray(ts.final_obs)[..., 1]
    assert len(np.unique(throws)) == throws.size
    starts = np.asarray(ts.obs)[np.asarray(ts.terminated)][:, 0]
    assert len(np.unique(np.asarray(obs)[:, 0])) == num_envs
    assert not np.intersect1d(throws, starts).size
    assert len(starts) == 48
    if resets in ("fresh", "every_step"):
        assert len(np.unique(starts)) == 48
    else:  # 48 draws of 64: 34 distinct ones are expected
        assert len(np.unique(starts)) > 24
    for row in np.asarray(ts.obs)[1::2, :, 0]:
        assert len(np.unique(row)) > 1
    later = rollout(dice(), jnp.zeros((num_steps, num_envs), jnp.int32), jax.random.key(9), resets)[3]
    assert not np.intersect1d(throws, np.asarray(later.final_obs)[..., 1]).size


def test_the_memory_of_a_state_pool_is_that_of_its_states() -> None:
    """Bytes of noise and state for T * N = 2048 * 128 steps of an environment with a state of 21 kB."""

    def size(tree: Any) -> int:
        return sum(
            x.size * x.dtype.itemsize
            for x in jax.tree.leaves(tree)
            if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
        )

    large = Env(
        lambda key: ((jnp.zeros(5000), jnp.int32(0)), jnp.zeros(2)),
        lambda key, state, action: (
            state,
            TimeStep(jnp.zeros(2), jnp.float32(0), state[1] == 3, jnp.bool_(False), jnp.zeros(2)),
        ),
        box(0, 1, (2,)),
        Discrete(2),
        resets="state_pool",
    )
    key, one = jax.eval_shape(lambda: jax.random.key(0)), 5000 * 4 + 4 + 8

    def memory(resets: str, **sizes: int) -> tuple[int, int]:
        vec = auto_reset(large, resets, **sizes)
        return (
            size(jax.eval_shape(lambda key: vec.reset(key, 128)[0], key)) // one,
            size(jax.eval_shape(lambda key: vec.noise(key, 2048, 128), key)) // one,
        )

    indices = 2048 * 128 * 4 // one
    assert memory("fresh") == memory("pool") == (127, 2048 * 128)  # the states have no observation
    assert memory("every_step") == (127, 0)
    assert memory("auto", pool_size=32) == (127 + 32, indices)


def test_auto_uses_the_mode_of_the_environment_and_a_batch_is_unchanged() -> None:
    env = probes.chain()
    modes = {resets: auto_reset(env._replace(resets=resets)).noise for resets in ("", *RESETS)}
    found = {resets: jax.tree.structure(noise(jax.random.key(0), 2, 3)) for resets, noise in modes.items()}
    said = {resets: jax.tree.structure(auto_reset(env, resets).noise(jax.random.key(0), 2, 3)) for resets in RESETS}
    assert found == {"": said["fresh"], **said}
    vec = auto_reset(env)
    assert auto_reset(vec, "state_pool") is vec


def test_staggered_first_episodes_end_at_different_steps(key: jax.Array) -> None:
    env = time_limit(probes.scripted(terminate_at=(), truncate_at=()), 8)
    for resets in ("fresh", "state_pool"):
        vec = auto_reset(env, resets, stagger=8)

        @quick_jit
        def run(key: jax.Array, vec: Any = vec) -> tuple:
            key_reset, key_noise = jax.random.split(key)
            state, _ = vec.reset(key_reset, 200)
            return state.steps_left, jax.lax.scan(
                lambda state, noise: vec.step(noise, state, jnp.zeros(200, jnp.int32)),
                state,
                vec.noise(key_noise, 24, 200),
            )

        first, (last, ts) = run(jax.random.clone(key))
        assert set(np.asarray(first).tolist()) == set(range(1, 9))
        ends = (np.arange(24)[:, None] - np.asarray(first) + 1) % 8 == 0
        np.testing.assert_array_equal(ts.truncated, ends & (np.arange(24)[:, None] >= np.asarray(first) - 1))
        assert not ts.terminated.any()
        assert not np.asarray(last.steps_left).any()


def test_an_episode_that_ends_early_is_not_cut(key: jax.Array) -> None:
    vec = auto_reset(probes.scripted(terminate_at=(1,), truncate_at=()), stagger=5)
    state, _ = vec.reset(key, 50)
    noise = jax.tree.map(lambda x: x[0], vec.noise(jax.random.key(1), 1, 50))
    state, ts = quick_jit(vec.step)(noise, state, jnp.zeros(50, jnp.int32))
    assert ts.terminated.all()
    assert not np.asarray(state.steps_left).any()


def test_a_constant_without_an_environment_axis_is_unchanged() -> None:
    """Simulators whose vmap does not batch the constants of their model return such leaves."""
    done, table = jnp.array([True, False]), jnp.arange(3.0)
    assert choose(done, jnp.zeros(3), table) is table
    np.testing.assert_array_equal(choose(done, jnp.zeros((2, 3)), jnp.ones((2, 3))), [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(choose(jnp.bool_(True), jnp.zeros((2, 3)), jnp.ones((2, 3))), np.zeros((2, 3)))


def test_info_of_an_episode_is_kept_until_its_end(key: jax.Array) -> None:
    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        state, ts = inner.step(key, state, action)
        return state, ts._replace(info={"steps": 2 * ts.obs[1]})

    inner = probes.scripted(terminate_at=(3,), truncate_at=())
    _, _, _, ts = rollout(inner._replace(step=step), jnp.zeros((6, 2), jnp.int32), key)
    np.testing.assert_array_equal(ts.info["steps"][:, 0], [2, 4, 6, 2, 4, 6])
