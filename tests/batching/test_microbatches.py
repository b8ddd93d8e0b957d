"""Microbatches give the results of the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import chain, reward_by_distance
from slow import slow_except

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.batching.microbatches import CACHED_ROWS, Partition, map_microbatches, mean_gradient, num_microbatches
from purejaxppo.training.loop import as_traced

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("columns", "length", "limit", "count"),
    [
        (4096, 1, 1024, 4),
        (4096, 1, 4096, 1),
        (4096, 1, 10_000, 1),
        (4096, 8, 1024, 32),
        (6, 1, 4, 2),
        (9, 1, 4, 3),
        (10, 1, 3, 5),  # 4 does not divide 10
        (7, 1, 3, 7),  # a limit is never exceeded
        (4, 100, 10, 4),  # a microbatch holds at least one sequence
        (65_536, 1, 0, 65_536 // CACHED_ROWS),
        (CACHED_ROWS, 1, 0, 1),
        (5 * 8209, 1, 0, 5),
        (5 * 16411, 1, 0, 5),  # twice the wanted size instead of one row each
    ],
)
def test_microbatches_are_equal_and_as_large_as_allowed(columns, length, limit, count):
    assert num_microbatches(columns, length, Partition(limit)) == count
    assert columns % count == 0


def test_an_accelerator_uses_one_microbatch_unless_a_limit_is_set(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert num_microbatches(2**20, 1, Partition()) == 1
    assert num_microbatches(2**20, 1, Partition(2**18)) == 4


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_mean_of_microbatch_gradients_is_the_gradient_of_the_mean(count):
    x, y = RNG.normal(size=(12, 3)), RNG.normal(size=12)
    weights, offset = RNG.normal(size=3), 0.5
    error = x @ weights + offset - y
    expected = np.concatenate([[2 * error.mean()], 2 * error @ x / 12])  # of the mean square, by hand

    def loss(params, _, x, y):
        error = (x * params["w"][None]).sum(1) + params["b"] - y
        return (error**2).mean(), error.max()

    params = {"b": jnp.float32(offset), "w": jnp.asarray(weights, jnp.float32)}
    microbatches = jax.tree.map(lambda a: jnp.asarray(a.reshape(count, -1, *a.shape[1:]), jnp.float32), (x, y))
    mean = jax.jit(lambda params, microbatches: mean_gradient(loss, params, (), microbatches))
    gradient, aux = mean(params, microbatches)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aux, error.reshape(count, -1).max(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("limit", "columns"), [(2, 1), (4, 1), (7, 2), (24, 8), (100, 8)])
def test_a_function_mapped_over_microbatches_gives_the_result_of_the_whole(limit, columns):
    """Columns keep their order, in leaves of one step (such as a recurrent state) and of many."""
    batch = {
        "obs": jnp.asarray(RNG.normal(size=(3, 8, 2))),
        "rnn_state": jnp.arange(8)[None],
        "flag": jnp.ones((3, 8), bool),
    }
    seen = []

    def function(microbatch):
        seen.append(microbatch["obs"].shape)
        return microbatch["obs"].sum(-1) * microbatch["rnn_state"].astype(jnp.float32), microbatch["rnn_state"]

    expected, found = function(batch), map_microbatches(function, batch, Partition(limit))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert seen[-1] == (3, columns, 2)


@pytest.mark.parametrize(
    ("kind", "actions"),
    slow_except(
        [(kind, actions) for kind in ("feed-forward", "gru") for actions in ("discrete", "continuous")],
        ("feed-forward", "continuous"),
    ),
)
def test_an_update_in_microbatches_equals_the_update(kind, actions):
    """Equal up to rounding, metrics included: advantages are normalized over the minibatch, not per microbatch."""
    env = chain(limit=5) if actions == "discrete" else reward_by_distance(action_dim=2)
    base = {"num_envs": 4, "num_steps": 8, "num_epochs": 2, "num_minibatches": 2, "total_timesteps": 320}
    base |= {"sequence_length": 4} if kind == "gru" else {}
    network = plain(env) if kind == "feed-forward" else pp.make_network(env, pp.NetworkConfig("gru", (4,), rnn_size=3))

    def run(size):
        algo, h = pp.make_ppo(env, network, Config(**base, microbatch_size=size)), as_traced(Hyperparams(1e-2))
        return jax.jit(lambda key: algo.update(algo.init(key, h), h))(jax.random.key(0))

    (whole, metrics), (divided, divided_metrics) = run(16), run(4)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(divided.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name in ("policy_loss", "value_loss", "grad_norm", "max_ratio", "clip_fraction", "kl", "first_ratio_error"):
        np.testing.assert_allclose(
            getattr(metrics, name), getattr(divided_metrics, name), rtol=1e-3, atol=2e-5, err_msg=name
        )
    assert metrics.kl > 1e-6


@pytest.mark.slow
def test_microbatches_bound_the_memory_of_an_update():
    env = chain(limit=5)
    network = pp.mlp(env, (64, 64))

    def temporary(size):
        config = Config(num_envs=64, num_steps=64, num_minibatches=1, total_timesteps=4096, microbatch_size=size)
        algo, h = pp.make_ppo(env, network, config), as_traced(None)
        state = jax.eval_shape(algo.init, jax.random.key(0), h)
        return jax.jit(algo.update).lower(state, h).compile().memory_analysis().temp_size_in_bytes

    assert temporary(256) < temporary(4096) / 2
