"""Final observations of truncated steps: those of NumPy, the same updates, and no truncation is lost in silence."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import endless, quick_jit, rollout

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.batching import final_observations as final
from purejaxppo.batching.samples import Transition
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import NEVER, VecEnv
from purejaxppo.envs.wrappers.agents import fold_agents
from purejaxppo.envs.wrappers.episodes import action_repeat, time_limit
from purejaxppo.training.health import find_fault
from purejaxppo.training.loop import as_traced, rollout_shapes, state_shapes

T, N = 12, 5
EMPTY = Transition(*[None] * len(Transition._fields))


def flags(gap, seed=0):
    """Return (truncated, terminated) [T, N]; truncations that count are at least `gap` steps apart."""
    rng = np.random.default_rng(seed)
    cut = np.zeros((T, N), bool)
    for n in range(N):
        t = rng.integers(gap)
        while t < T:
            cut[t, n] = True
            t += gap + rng.integers(2)
    cut[::gap, 0] = True  # as many as there can be
    cut[:, 0] &= np.arange(T) % gap == 0
    both = ~cut & (rng.random((T, N)) < 0.3)  # both flags: terminated wins
    return cut | both, both


def observations(seed=0):
    rng = np.random.default_rng(seed)
    obs = {"x": rng.normal(size=(T, N, 3)).astype(np.float32), "mask": rng.random((T, N, 2)) < 0.5}
    obs["x"][4, 2, 1], obs["x"][7, 0, 0] = np.nan, np.inf
    return obs


def kept(obs, truncated, terminated, count):
    """Return the rollout of a scan over these rows with `count` slots for each environment."""

    def step(carry, row):
        return carry + 1, row

    rows = EMPTY._replace(
        obs=jnp.zeros((T, N)), reward=jnp.zeros((T, N)), truncated=truncated, terminated=terminated, final_obs=obs
    )
    rows = jax.tree.map(jnp.asarray, rows)
    first = jax.tree.map(lambda x: jnp.asarray(x[0]), obs)
    start = (jnp.int32(0), final.start(first, count))
    (steps, kept), result = quick_jit(lambda *x: jax.lax.scan(final.in_slots(step), *x))(start, rows)
    assert steps == T
    return final.with_slots(kept, result)


@pytest.mark.parametrize("gap", [2, 5, 12])
def test_the_slots_hold_the_final_observation_of_every_truncated_step(gap):
    obs, (truncated, terminated) = observations(), flags(gap)
    result = kept(obs, truncated, terminated, -(-T // gap))
    cut = truncated & ~terminated
    assert cut[:, 0].sum() == -(-T // gap)
    assert final.count_lost(result) == 0.0
    look = quick_jit(final.steps_at)
    for t in range(T):
        row = look(result, jnp.full(N, t, jnp.int32))
        for name in obs:
            np.testing.assert_array_equal(np.asarray(row.final_obs[name])[cut[t]], obs[name][t][cut[t]])
        np.testing.assert_array_equal(row.truncated, truncated[t])


def test_steps_with_a_nonfinite_final_observation_are_found_whether_or_not_they_are_truncated():
    obs, (truncated, terminated) = observations(), flags(5)
    bad = ~np.isfinite(obs["x"]).all(-1)
    assert bad.sum() == 2
    for rollout_ in (kept(obs, truncated, terminated, 3), EMPTY._replace(reward=jnp.zeros((T, N)), final_obs=obs)):
        np.testing.assert_array_equal(final.nonfinite_steps(rollout_), bad)


def test_truncations_without_a_slot_are_counted_and_change_no_slot():
    obs, (truncated, terminated) = observations(), flags(2)
    cut = truncated & ~terminated
    result = kept(obs, truncated, terminated, 2)
    assert int(final.count_lost(result)) == np.maximum(cut.sum(0) - 2, 0).sum() > 3
    for n in range(N):
        for slot, t in enumerate(np.flatnonzero(cut[:, n])[:2]):
            np.testing.assert_array_equal(result.final_obs.obs["x"][n, slot], obs["x"][t, n])


def test_the_slots_are_as_many_as_truncations_can_be(monkeypatch):
    """Truncations g steps apart, the first at any step: at most K of them, and K if the first is at step 0."""
    monkeypatch.setattr(final, "SMALL", 0)
    for num_steps in range(1, 40):
        for gap in range(1, 45):
            most = max(len(range(first, num_steps, gap)) for first in range(num_steps))
            slots = final.num_slots(jnp.zeros((1, 3)), num_steps, gap)
            assert slots == (most if most < num_steps and (most == 1 or most <= num_steps / 8) else 0)
    assert final.num_slots(jnp.zeros((1, 3)), 128, NEVER) == 1


@pytest.mark.parametrize(
    ("num_steps", "gap", "slots"),
    [
        (128, 8, 16),
        (128, 7, 0),
        (128, 1, 0),
        (16, 8, 2),
        (17, 8, 0),
        (17, 9, 2),
        (8, 8, 1),
        (8, 7, 0),
        (2, 2, 1),
        (1, 9, 0),
    ],
)
def test_there_is_one_slot_or_slots_for_an_eighth_of_the_steps_at_most(num_steps, gap, slots, monkeypatch):
    """Of 128 steps, 16 can be truncated 8 apart, and 19 if they are 7 apart."""
    monkeypatch.setattr(final, "SMALL", 0)
    assert final.num_slots(jnp.zeros((1, 3)), num_steps, gap) == slots


def test_small_observations_are_kept_whole():
    large = final.SMALL // (4 * 128 * 16)  # floats
    assert final.num_slots(jax.ShapeDtypeStruct((16, large), jnp.float32), 128, 1000) == 0
    assert final.num_slots(jax.ShapeDtypeStruct((16, large + 1), jnp.float32), 128, 1000) == 1


# ---- how close truncations are


def test_wrappers_and_batches_know_how_close_truncations_are():
    env = endless()._replace(truncation_gap=NEVER)
    assert endless().truncation_gap == 1
    assert time_limit(endless(), 30).truncation_gap == 1  # the environment itself may be truncated earlier
    limited = time_limit(env, 30)
    assert limited.truncation_gap == 30
    assert time_limit(limited, 40).truncation_gap == 30
    assert time_limit(limited, 20).truncation_gap == 20
    assert time_limit(limited, jnp.int32(20)).truncation_gap == 1  # not known while the program is made
    assert action_repeat(limited, 4).truncation_gap == 8
    assert auto_reset(limited).truncation_gap == auto_reset(limited, stagger=9).truncation_gap == 30
    assert auto_reset(limited, quarantine=True).truncation_gap == 1
    assert fold_agents(limited, 2).truncation_gap == 30
    assert VecEnv._field_defaults["truncation_gap"] == 1


@pytest.mark.parametrize(("env", "gap"), [("CartPole-v1", 500), ("King-v1", 50), ("Nim-v1", NEVER)])
def test_environments_of_suites_state_their_clock(env, gap):
    assert pp.make(env).truncation_gap == gap


@pytest.mark.parametrize("env", ["CartPole-v1", "Breakout-MinAtar", "Catch-bsuite", "MetaMaze-misc"])
def test_no_episode_of_gymnax_is_truncated_before_its_clock(env, key):
    env = pp.make(env, max_steps_in_episode=7)
    assert env.truncation_gap == 7
    ts = rollout(env, lambda: jnp.zeros((30, 8), jnp.int32), key, shape=(30, 8))[3]
    cut = np.asarray(ts.truncated & ~ts.terminated)
    assert cut.any()
    for column in cut.T:
        assert (np.diff(np.flatnonzero(column), prepend=-1) >= 7).all()


def test_staggered_episodes_keep_the_distance_of_truncations(key):
    vec = auto_reset(time_limit(endless(100)._replace(truncation_gap=NEVER), 6), stagger=6)

    @quick_jit
    def play(key):
        keys = jax.random.split(key)
        env_state, _ = vec.reset(keys[0], 16)
        actions = jnp.zeros(16, jnp.int32)

        def step(env_state, noise):
            env_state, ts = vec.step(noise, env_state, actions)
            return env_state, ts.truncated

        return jax.lax.scan(step, env_state, vec.noise(keys[1], 30, 16))[1]

    truncated = np.asarray(play(key))
    gaps = [np.diff(np.flatnonzero(column)) for column in truncated.T]
    assert min(map(min, gaps)) == 6 == vec.truncation_gap
    assert len(set(truncated.argmax(0))) > 2


# ---- updates


CONFIG = Config(num_envs=4, num_steps=24, num_epochs=2, num_minibatches=2, total_timesteps=96 * 4)


def algorithm(limit=8, gap=8, **settings):
    env = endless(limit)._replace(truncation_gap=gap, name="Endless")
    return pp.make_ppo(env, plain(env), Config(**(vars(CONFIG) | settings)))


@pytest.mark.parametrize(
    "settings",
    [pytest.param({"num_devices": 1, "recompute_advantages": True}, marks=pytest.mark.slow), {"num_devices": 2}],
    ids=["recomputed", "two devices"],
)
def test_updates_are_bitwise_those_with_all_final_observations(settings, monkeypatch):
    results = []
    for small in (0, 2**24):
        monkeypatch.setattr(final, "SMALL", small)
        algo, h = algorithm(**settings), as_traced(pp.Hyperparams(1e-2))
        shapes = rollout_shapes(algo, state_shapes(algo))
        assert isinstance(shapes.final_obs, final.Slots) == (small == 0)
        state, update = quick_jit(algo.init)(jax.random.key(0), h), quick_jit(algo.update)
        for _ in range(2):
            state, metrics = update(state, h)
        assert metrics.num_episodes >= 8
        assert metrics.lost_final_observations == 0.0
        state = state._replace(key=jax.random.key_data(state.key))
        results.append([np.asarray(x) for x in jax.tree.leaves((state, metrics))])
    for with_slots, whole in zip(*results, strict=True):
        np.testing.assert_array_equal(with_slots, whole)


def test_a_broken_promise_is_a_fault_of_the_environment(monkeypatch):
    monkeypatch.setattr(final, "SMALL", 0)
    algo = algorithm(limit=9, gap=12)
    _, metrics = quick_jit(algo.update)(pp.init_state(algo, 0), as_traced(None))
    assert metrics.lost_final_observations == 0.0  # truncations at steps 8 and 17, and two slots
    algo = algorithm(limit=6, gap=12)
    _, metrics = quick_jit(algo.update)(pp.init_state(algo, 0), as_traced(None))
    assert metrics.lost_final_observations == 4 * (4 - 2)
    fault = find_fault(jax.tree.map(lambda x: x[None], metrics), "Endless")
    assert fault.kind == "truncation"
    assert fault.count == 8
    assert re.search("Endless was truncated more often than its truncation_gap allows: .* 8 truncated", fault.message)
