"""Many runs in one program give the same results however they are divided among devices and groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from readable import readable

from purejaxppo import Config, Hyperparams
from purejaxppo.devices.cpu import SMALL_MINIBATCH
from purejaxppo.training.arguments import as_traced
from purejaxppo.training.health import RunWarning
from purejaxppo.training.many_runs import (
    flatten_runs,
    map_runs,
    partition_runs,
    place_runs,
    runs_at_once,
    split_hyperparams,
    unflatten_runs,
    warn_of_failed_runs,
)


def walk(one, shared):
    """Simulate a random walk of five steps, a small run."""
    key, scale = one
    return {"sum": scale * jnp.cumsum(jax.random.normal(key, (5,))) + shared, "key": jax.random.key_data(key)}


@pytest.mark.parametrize(("num_devices", "at_once"), [(1, 1), (1, 4), (1, 12), (1, 5), (2, 1), (2, 3), (2, 6)])
def test_results_do_not_depend_on_devices_and_groups(num_devices, at_once):
    keys, scales = jax.random.split(jax.random.key(0), 12), jnp.arange(12.0)
    with jax.debug_key_reuse(False):
        found = jax.jit(lambda *x: map_runs(walk, num_devices, at_once, x, jnp.float32(1)))(keys, scales)
        for i in range(12):
            expected = walk((keys[i], scales[i]), 1.0)
            np.testing.assert_allclose(found["sum"][i], expected["sum"], rtol=1e-6)
            np.testing.assert_array_equal(found["key"][i], expected["key"])
    assert len(found["sum"].sharding.device_set) == num_devices


def test_runs_are_placed_as_the_results_are():
    placed = place_runs({"x": jnp.zeros((4, 3)), "key": jax.random.split(jax.random.key(0), 4)}, 2)
    results = jax.jit(lambda x: map_runs(lambda one, _: one, 2, 1, x, ()))(placed)
    assert placed["x"].sharding.is_equivalent_to(results["x"].sharding, 2)
    assert placed["key"].sharding.is_equivalent_to(results["key"].sharding, 1)


def test_axes_of_runs_are_merged_and_split():
    tree = {"x": jnp.arange(24.0).reshape(2, 3, 4), "y": jnp.arange(6).reshape(2, 3)}
    flat = flatten_runs(tree, 2)
    assert jax.tree.map(jnp.shape, flat) == {"x": (6, 4), "y": (6,)}
    np.testing.assert_array_equal(unflatten_runs(flat, (2, 3))["x"], tree["x"])


def test_runs_are_side_by_side_if_they_are_small_and_fit_a_cache(monkeypatch):
    few, many = SMALL_MINIBATCH, SMALL_MINIBATCH + 1
    wanted = {1: 1, 2: 2, 16: 16, 32: 16, 24: 12, 17: 17, 34: 34}  # 17 has no divisors, those of 34 are too small
    assert {n: runs_at_once(n, few) for n in wanted} == wanted
    assert {runs_at_once(n, many) for n in wanted} == {1}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [runs_at_once(n, size) for n in (17, 4096) for size in (few, many)] == [17, 17, 4096, 4096]


@pytest.mark.parametrize(
    ("config", "count", "expected"),
    [
        ({}, 12, (2, 6)),
        ({}, 7, (1, 7)),
        ({}, 1, (1, 1)),
        ({"num_devices": 2}, 12, (1, 12)),
        ({"num_envs": 4096}, 4, (2, 1)),
    ],
    ids=readable,
)
def test_devices_share_the_runs_unless_they_share_each_run(config, count, expected):
    assert partition_runs(Config(**{"num_envs": 4, "num_steps": 8, **config}), count) == expected


def test_hyperparameters_vary_along_the_first_axis_only():
    h = as_traced(Hyperparams(learning_rate=jnp.array([1.0, 2.0])))
    varied, shared = split_hyperparams(h, (2, 3), "sweep")
    assert shared == ()
    assert varied.learning_rate.tolist() == [1, 1, 1, 2, 2, 2]
    assert varied.gamma.shape == (6,)
    assert split_hyperparams(as_traced(None), (2, 3), "sweep")[0] == ()
    with pytest.raises(ValueError, match=r"sweep takes .* scalars or arrays of shape \(3,\)"):
        split_hyperparams(h, (3, 2), "sweep")


def test_a_warning_names_each_failed_run_once():
    losses = np.zeros((4, 2, 3))
    losses[1, 0, 2] = np.nan
    known = np.zeros((4, 2), bool)
    with pytest.warns(RunWarning, match=r"1 run of 8 failed; (.|\n)*run \[1, 0\]: update 13: total_loss became nan"):
        known = warn_of_failed_runs("", {"total_loss": losses}, known, first_update=10)
    assert known.sum() == 1
    losses[2, 1] = np.inf
    with pytest.warns(RunWarning, match=r"1 run of 8 failed; (.|\n)*run \[2, 1\]"):
        known = warn_of_failed_runs("", {"total_loss": losses}, known)
    assert warn_of_failed_runs("", {"total_loss": losses}, known).sum() == 2
    with pytest.warns(RunWarning, match="8 runs of 8 failed(.|\n)*and 3 more$"):
        warn_of_failed_runs("", {"total_loss": losses * np.nan}, np.zeros((4, 2), bool))
