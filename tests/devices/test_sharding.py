"""A run on two devices equals the run on one device; sharded seeds equal separate runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import chain, endless, quick_jit, reward_by_distance
from slow import slow_except

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, NetworkConfig
from purejaxppo.batching.microbatches import MIN_ROWS_PER_DEVICE, choose_partition
from purejaxppo.bench.hlo import count
from purejaxppo.config.errors import ConfigError
from purejaxppo.devices.sharding import (
    largest_device_count,
    map_shards,
    mean_over_shards,
    mesh,
    replicate,
    shard,
    shard_runs,
)
from purejaxppo.training.loop import as_traced

TINY = {"num_envs": 4, "num_steps": 8, "num_epochs": 2, "num_minibatches": 2, "total_timesteps": 320}
CHAIN = chain(limit=5)


def test_the_tests_have_two_devices():
    assert jax.local_device_count() == 2


# ---- shard, replicate and map


def test_leaves_are_sharded_along_an_axis_if_its_size_is_divisible():
    tree = {
        "even": jnp.zeros((4, 3)),
        "odd": jnp.zeros((3, 4)),
        "scalar": jnp.float32(0),
        "keys": jax.random.split(jax.random.key(0), 4),
    }
    placed = jax.jit(lambda x: shard(x, 2))(tree)

    def sizes(x):
        return [shard.data.shape for shard in x.addressable_shards]

    assert sizes(placed["even"]) == [(2, 3)] * 2
    assert sizes(placed["keys"]) == [(2,)] * 2
    assert sizes(placed["odd"]) == [(3, 4)] * 2
    assert sizes(jax.jit(lambda x: shard(x, 2, axis=1))(tree["odd"])) == [(3, 2)] * 2
    assert sizes(jax.jit(lambda x: replicate(x, 2))(placed["even"])) == [(4, 3)] * 2


def test_mean_over_shards_averages_the_first_result_and_concatenates_the_second():
    values, factor = jnp.arange(6.0), jnp.float32(2.0)
    for num_devices in (1, 2):
        squares = jax.jit(lambda n=num_devices: map_shards(lambda f, x: f * x * x, factor, values, n))()
        np.testing.assert_array_equal(squares, 2.0 * values**2)
        both = jax.jit(
            lambda n=num_devices: mean_over_shards(lambda f, x: ((f * x).mean()[None], x * x), factor, values, n)
        )
        mean, squares = both()
        np.testing.assert_array_equal(mean, [5.0])
        np.testing.assert_array_equal(squares, values**2)


@pytest.mark.parametrize(("count", "sizes", "expected"), [(2, (4, 6), 2), (2, (4, 3), 1), (1, (4,), 1), (99, (4,), 2)])
def test_the_largest_device_count_that_divides_all_sizes(count, sizes, expected):
    assert largest_device_count(count, *sizes) == expected


def test_too_many_devices_is_an_error_that_names_the_environment_variable():
    with pytest.raises(ValueError, match=r"num_devices = 4: JAX sees 2 \(cpu\).*JAX_NUM_CPU_DEVICES"):
        pp.make_ppo(CHAIN, plain(CHAIN), Config(**TINY, num_devices=4))
    assert mesh(2).size == 2


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"num_devices": 3}, ["num_devices = 3: does not divide num_envs = 4; nearest valid values: 2 or 4"]),
        (
            {"num_devices": 4, "num_minibatches": 16},
            ["does not divide the 2 samples of a minibatch; nearest valid"],
        ),
        ({"num_devices": -1}, ["num_devices = -1: must lie between 0 and 65536"]),
    ],
)
def test_an_invalid_number_of_devices_is_reported_with_the_nearest_valid_ones(changes, texts):
    with pytest.raises(ConfigError) as error:
        pp.make_ppo(CHAIN, plain(CHAIN), Config(**(TINY | changes)))
    for text in texts:
        assert text in str(error.value)


def test_by_default_a_run_is_sharded_if_its_minibatches_are_large_enough(monkeypatch):
    def chosen(columns):
        return choose_partition(Config(num_envs=64, num_steps=128), 1, columns).num_devices

    assert chosen(2 * MIN_ROWS_PER_DEVICE) == 2
    assert chosen(2 * MIN_ROWS_PER_DEVICE - 2) == 1
    assert chosen(2 * MIN_ROWS_PER_DEVICE + 1) == 1  # two devices do not divide an odd number
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(2 * MIN_ROWS_PER_DEVICE) == 1


# ---- one run

PATHS = {
    "clip": {},
    "normalized observations and rewards": {"normalize_observations": True, "scale_rewards": True},
    "microbatches": {"microbatch_size": 4},
    "TRPO": {"policy_step": "trpo"},
    "KL, recomputed advantages, diagnostics": {"objective": "kl", "recompute_advantages": True, "diagnostics": True},
    "pooled resets": {"resets": "pool"},
}


def trained(env, network, num_devices, changes, h=Hyperparams(1e-2, target_kl=0.5)):  # noqa: B008
    algo = pp.make_ppo(env, network, Config(**(TINY | changes), num_devices=num_devices))
    assert algo.components.plan.num_devices == num_devices
    h = as_traced(h)

    @quick_jit
    def run(key):
        return jax.lax.scan(lambda state, _: algo.update(state, h), algo.init(key, h), length=3)

    return run(jax.random.key(0))


def assert_same(one, two):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("path", slow_except(PATHS, "KL, recomputed advantages, diagnostics"))
@pytest.mark.parametrize("kind", slow_except(["discrete", "continuous"], "discrete"))
def test_a_run_on_two_devices_equals_the_run_on_one(kind, path):
    """State and metrics after three updates differ by the order of sums only."""
    env = CHAIN if kind == "discrete" else reward_by_distance(action_dim=2)
    assert_same(*(trained(env, plain(env), n, PATHS[path]) for n in (1, 2)))


@pytest.mark.parametrize("kind", slow_except(["gru", "lstm"], "gru"))
def test_a_recurrent_run_on_two_devices_equals_the_run_on_one(kind):
    env = endless(limit=5)
    network = pp.make_network(env, NetworkConfig(kind, (4,), rnn_size=3))
    changes = {"sequence_length": 4, "burn_in": 2}
    assert_same(*(trained(env, network, n, changes) for n in (1, 2)))


def test_each_device_holds_half_of_the_environments():
    """The environments are sharded, not replicated."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), Config(**TINY, num_devices=2))
    h = as_traced(None)
    state, _ = jax.jit(algo.update)(jax.jit(algo.init)(jax.random.key(0), h), h)
    assert {shard.data.shape[0] for shard in state.obs.addressable_shards} == {2}


@pytest.mark.slow
def test_a_minibatch_step_has_one_all_reduce():
    """On a CPU an all-reduce costs about 50 µs, so gradient and statistics share one."""
    h = as_traced(None)

    def communications(num_minibatches):
        config = Config(**(TINY | {"num_minibatches": num_minibatches, "num_epochs": 1}), num_devices=2)
        algo = pp.make_ppo(CHAIN, plain(CHAIN), config)
        state = jax.eval_shape(algo.init, jax.random.key(0), h)
        kernels = count(jax.jit(algo.update).lower(state, h).compile().as_text()).kernels
        return sum(n for name, n in kernels.items() if name.startswith(("all-", "collective-", "reduce-scatter")))

    assert communications(4) - communications(2) == 2


# ---- many runs


def test_shard_runs_shards_all_arguments_but_the_last():
    shapes = []

    def function(a, b, c):
        shapes.append((a.shape, b.shape, c.shape))
        return (a + b) * c[0]

    out = jax.jit(shard_runs(function, 2))(jnp.arange(4.0), jnp.ones(4), jnp.array([3.0, 0.0, 0.0]))
    np.testing.assert_array_equal(out, 3.0 * (np.arange(4.0) + 1.0))
    assert shapes[-1] == ((2,), (2,), (3,))
