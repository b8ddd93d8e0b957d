"""A workload is measured end to end; its counts equal those of the network's matrix products."""

import os

import jax
import pytest

from purejaxppo.bench import measure
from purejaxppo.bench.measure import measure_cold, split
from purejaxppo.bench.timing import TimingBudget
from purejaxppo.config.schema import Config, NetworkConfig, Run

TOY = Run(
    config=Config(num_envs=2, num_steps=4, num_epochs=2, num_minibatches=2, total_timesteps=800),
    network=NetworkConfig(hidden_sizes=(4,)),
)


def products():
    """Return the FLOP of the matrix products of one update by phase: 8 steps of CartPole, layers of 4."""
    actor, critic = 2 * (4 * 4 + 4 * 2), 2 * (4 * 4 + 4 * 1)  # per observation
    first = 2 * 4 * 4  # first layer, whose input needs no gradient
    heads = 2 * 4 * (1 + 2)  # the gradients of the heads' inputs are not matrix products in HLO, but sums by column
    return {
        "rollout": 8 * actor,
        "targets": (8 + 2) * critic + 2 * 2 * critic,  # V(s_t), V of the last observations and of truncated ones
        "update": TOY.config.num_epochs * 8 * (3 * (actor + critic) - 2 * first - heads),
        "metrics": 8 * actor,  # the new policy on the whole batch
    }


def test_the_split_adds_up_to_the_whole():
    alone = {"environment": 1.0, "rollout": 3.0, "targets": 0.5, "shuffle": 0.25, "update": 4.0}
    phases = split(8.0, alone)
    assert phases == {
        "environment": 1.0, "policy": 2.0, "targets": 0.5, "shuffle": 0.25, "gradients": 3.75, "rest": 0.5,
    }  # fmt: skip
    assert sum(phases.values()) == 8.0


@pytest.mark.slow
def test_a_toy_is_measured_end_to_end(monkeypatch, tmp_path):
    """Two seeds in this process, without a cache."""
    monkeypatch.setattr(measure, "use_cache", lambda folder: None)
    lines = []
    with jax.debug_key_reuse(False):  # under vmap the checker counts the keys that a scan passes on as used
        toy = measure_cold(str(tmp_path), TOY, 2, TimingBudget(2, 0.0), lines.append)
    assert lines[0] == "compiling the training program"
    assert toy["flags"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]
    assert (toy["steps_per_update"], toy["num_seeds"], toy["num_devices"]) == (16, 2, 2)
    rate = toy["steps_per_s"]
    assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert rate["median"] == pytest.approx(16 / toy["update_s"]["median"])
    assert sum(toy["split_s"].values()) == pytest.approx(toy["update_s"]["median"])
    assert min(toy["compile"].values()) > 0
    kernels = toy["kernels"]
    assert kernels["loops_of_assumed_length"] == 1  # the loop over the truncations of a rollout
    assert kernels["per_update"] > 4 * kernels["per_env_step"] + 4 * kernels["per_minibatch"] > 0
    expected = products()
    assert toy["flops_per_step"] == sum(expected.values()) / 8
    for phase in ("rollout", "targets", "update"):  # each device trains one of the two seeds, and both count
        assert toy["phases"][phase]["flops"] == 2 * expected[phase], phase
    assert toy["peak_memory_bytes"] > 0
