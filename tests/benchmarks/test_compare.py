"""The comparison alternates the sides, gives both the same flags, and computes valid intervals."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from scripts import load_script

from purejaxppo.devices.cpu import CPU_FLAGS, FAST_FLAGS, SMALL_FLAGS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

WORKER = """
import json, sys
spec = json.loads(sys.argv[-1])
steps = spec["config"]["total_timesteps"]
print("a greeting")
print(json.dumps({"ready": True, "peer": "fake", "versions": {}, "compile_seconds": 1.0}), flush=True)
for line in sys.stdin:
    seed = int(line.split()[1])
    reply = {"seconds": FACTOR * (1.0 + seed), "env_steps": steps, "final_returns": [float(seed)]}
    print(json.dumps(reply), flush=True)
"""


compare = load_script(BENCHMARKS / "compare.py")
protocol = load_script(BENCHMARKS / "peers" / "protocol.py")


def fake_side(factor):
    command = (sys.executable, "-S", "-c", WORKER.replace("FACTOR", str(factor)))
    return compare.Side(command, dict(os.environ))


# ---- order and statistics


def test_each_side_is_first_equally_often_and_both_run_once_per_pair():
    order = compare.execution_order(6)
    assert [first for first, _ in order] == ["A", "B"] * 3
    assert all(set(pair) == {"A", "B"} for pair in order)


@pytest.mark.parametrize("n", [5, 6, 9, 20])
def test_the_interval_of_the_median_has_its_nominal_coverage(n):
    interval = compare.median_interval(list(range(n)))
    k = int(interval["low"]) + 1  # the k-th smallest of 0, 1, 2, ...
    assert interval["high"] == n - k
    assert interval["coverage"] == pytest.approx(1.0 - 2.0 * binom.cdf(k - 1, n, 0.5))
    assert interval["coverage"] >= 0.95 or k == 1
    assert 1.0 - 2.0 * binom.cdf(k, n, 0.5) < 0.95  # a narrower interval would not cover


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equal"), (3.0, "better"), (-3.0, "worse")])
def test_returns_are_compared_by_the_interval_of_their_difference(shift, verdict):
    peer = np.random.default_rng(1).normal(size=8)
    result = compare.compare_returns(list(peer + shift), list(peer))
    assert result["verdict"] == verdict
    assert result["difference"]["mean"] == pytest.approx(shift)
    assert result["difference"]["low"] <= shift <= result["difference"]["high"]


# ---- flags


def arguments(*options):
    return compare.parse(["--peer", "ours", *options])


def test_both_sides_run_under_the_flags_of_the_command_line(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    for workload, expected in (("W1", CPU_FLAGS), ("W2", CPU_FLAGS | SMALL_FLAGS)):
        flags = compare.flags_of(compare.spec_of(workload, 1)["config"], arguments())
        assert flags["ours"] == flags["peer"] == " ".join(f"--{name}={value}" for name, value in expected.items())


def test_fast_flags_and_flags_of_the_environment_reach_both_sides(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    flags = compare.flags_of(compare.spec_of("W1", 1)["config"], arguments("--fast-flags"))
    assert flags["ours"] == flags["peer"]
    assert flags["ours"].startswith("--xla_a=1 ")
    assert all(value in flags["ours"] for value in FAST_FLAGS.values())


def test_flags_can_be_chosen_for_the_peer_only():
    flags = compare.flags_of(compare.spec_of("W1", 1)["config"], arguments("--flags=--xla_b=2", "--peer-flags="))
    assert flags["ours"].startswith("--xla_b=2 ")
    assert flags["peer"] == ""


# ---- workers


def test_a_comparison_of_two_workers_gives_the_ratio_of_their_speeds():
    spec = compare.spec_of("W2", 1)
    result = compare.race(fake_side(1.0), fake_side(4.0), (spec, spec), 5)
    assert result["ratios"] == pytest.approx([4.0] * 5)
    assert result["ratio"]["median"] == pytest.approx(4.0)
    steps = spec["config"]["total_timesteps"]
    assert result["speeds"]["ours"] == pytest.approx([steps / (1.0 + seed) for seed in range(1, 6)])
    line = compare.row({"workload": "W2", **result})
    assert "| W2 | fake |" in line
    assert "**4.00** (4.00 to 4.00" in line


def test_learning_runs_as_many_executions_as_the_seeds_take():
    spec = compare.spec_of("W2", 1)
    learned = compare.learn(fake_side(1.0), spec | {"num_seeds": 1}, 3)
    assert learned["final_returns"] == [0.0, 1.0, 2.0]
    assert learned["env_steps_per_seed"] == spec["config"]["total_timesteps"]


def test_a_failed_worker_is_an_error_with_its_last_output():
    side = compare.Side((sys.executable, "-S", "-c", "import sys; sys.exit('no such peer')"), dict(os.environ))
    with pytest.raises(RuntimeError, match="no such peer"), side.worker(compare.spec_of("W2", 1)):
        pass


@pytest.mark.parametrize("name", compare.TIMED_UPDATES)
def test_a_specification_is_json_that_describes_the_workload(name):
    spec = json.loads(json.dumps(compare.spec_of(name, 10)))
    assert protocol.whole(spec) == 10
    assert protocol.tenth(10) == 1


def test_every_peer_has_its_adapter():
    assert all((BENCHMARKS / "peers" / peer.adapter).exists() for peer in compare.PEERS.values())


@pytest.mark.parametrize("length", [3, 7])
def test_a_worker_counts_the_kernels_of_a_step(length):
    import jax
    import jax.numpy as jnp

    x = jnp.ones((8, 8))
    scan = jax.jit(lambda x: jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=length)[0])
    assert protocol.kernels_per_env_step(scan.lower(x).compile(), length) >= 2  # a product and a sine
    assert protocol.kernels_per_env_step(scan.lower(x).compile(), length + 1) is None
