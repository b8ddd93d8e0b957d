"""The benchmark measures every workload in separate processes, and a failed workload does not stop the others."""

import json

import pytest
from bench_reports import RESULT, answer_at_once

from purejaxppo.bench.benchmark import run_benchmark
from purejaxppo.bench.measure import compile_warm, measure_cold
from purejaxppo.bench.subprocesses import run_in_subprocess
from purejaxppo.bench.timing import TimingBudget
from purejaxppo.bench.workloads import WORKLOADS
from purejaxppo.config.schema import Config, NetworkConfig, Run

W1 = {"W1": WORKLOADS["W1"]}


def ignore(line):
    """Drop a line of progress."""


def test_all_workloads_that_suit_the_platform_are_measured(monkeypatch):
    answer_at_once(monkeypatch)
    assert list(run_benchmark(None, TimingBudget(), ignore)["workloads"]) == ["W1", "W2", "W3", "W4", "W5"]
    answer_at_once(monkeypatch, "gpu")
    names = ["W1", "W2", "W3 x 256", "W3 x 2048", "W4", "W5", "W6"]
    assert list(run_benchmark(None, TimingBudget(), ignore)["workloads"]) == names


def test_the_report_is_json_with_compile_times_summed_and_fractions_of_the_limits(monkeypatch):
    answer_at_once(monkeypatch)
    report = run_benchmark(W1, TimingBudget(3, 0.25), ignore)
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {"machine", "versions", "budget", "workloads"}
    assert set(report["versions"]) >= {"python", "jax", "jaxlib", "purejaxppo"}
    assert report["budget"] == {"repetitions": 3, "seconds": 0.25}
    measured = report["workloads"]["W1"]
    assert (measured["compile"]["cold_s"], measured["compile"]["warm_s"]) == (10.0, 1.5)
    assert measured["matmul_fraction"] == pytest.approx(1000.0 * RESULT["flops_per_step"] / 1e9)
    assert measured["memory_fraction"] == pytest.approx(1000.0 * RESULT["bytes_per_step"] / 1e8)


def test_a_workload_that_fails_has_an_error_and_the_next_is_measured(monkeypatch):
    calls = answer_at_once(monkeypatch, broken={"compile_warm"})
    lines = []
    two = {name: WORKLOADS[name] for name in ("W1", "W2")}
    report = run_benchmark(two, TimingBudget(), lines.append)
    assert {name: "error" in result for name, result in report["workloads"].items()} == {"W1": True, "W2": True}
    assert [name for name, _ in calls].count("measure_cold") == 2
    assert "W1: failed: its process ended with exit code -9" in lines


def test_curves_are_measured_if_they_are_asked_for(monkeypatch):
    answer_at_once(monkeypatch)
    report = run_benchmark(W1, TimingBudget(), ignore, WORKLOADS["W1"].run)
    assert [point["num_envs"] for point in report["scaling"]] == [2**i for i in range(6, 15)]
    assert report["drift"]["last_to_first"] == 1.0


def test_a_curve_ends_at_the_size_that_runs_out_of_memory(monkeypatch):
    calls = answer_at_once(monkeypatch, broken={("speed", 1024)})
    report = run_benchmark(W1, TimingBudget(), ignore, WORKLOADS["W1"].run)
    assert [point["num_envs"] for point in report["scaling"]] == [64, 128, 256, 512]
    assert calls[-1][0] == "drift"


@pytest.mark.slow
def test_the_second_process_compiles_nothing(tmp_path):
    toy = Run(config=Config(num_envs=2, num_steps=4, total_timesteps=80), network=NetworkConfig(hidden_sizes=(4,)))
    cold = run_in_subprocess(measure_cold, str(tmp_path), toy, 1, TimingBudget(1, 0.0), log=ignore)
    warm = run_in_subprocess(compile_warm, str(tmp_path), toy, 1)
    assert cold["compile"]["compile_cold_s"] > 0
    assert warm["from_cache"]
