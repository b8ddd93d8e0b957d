"""The benchmark measures what it says, survives what breaks, and the hot programs stay as small as they are."""

import dataclasses
import json
import math
import operator
import os

import jax
import numpy as np
import pytest

from purejaxppo._util.text import brief
from purejaxppo.bench import benchmark, measure, scaling, timing
from purejaxppo.bench.hlo import count
from purejaxppo.bench.measure import split
from purejaxppo.bench.programs import algorithm
from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess
from purejaxppo.bench.table import bench_table
from purejaxppo.bench.timing import Spread, TimingBudget, timed
from purejaxppo.bench.workloads import WORKLOADS, Workload
from purejaxppo.cli import main
from purejaxppo.config.checks import check
from purejaxppo.config.schema import Config, NetworkConfig, Run
from purejaxppo.training.loop import as_traced

# ---- workloads


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_are_valid_and_do_what_purejaxppo_is_compared_on(name):
    run = check(WORKLOADS[name].run)
    h = run.hyperparams
    assert (h.learning_rate, h.lr_anneal, h.gamma, h.gae_lambda) == (2.5e-4, 1.0, 0.99, 0.95)
    assert (h.clip_eps, h.vf_clip_eps, h.ent_coef, h.vf_coef) == (0.2, 0.2, 0.01, 0.5)
    assert (h.max_grad_norm, h.adam_eps) == (0.5, 1e-5)
    assert (run.config.num_epochs, run.config.normalize_advantages) == (4, True)
    assert (run.network.hidden_sizes, run.network.activation) == ((64, 64), "tanh")
    assert run.config.total_timesteps % run.config.timesteps_per_update == 0  # annealing ends with the last update


def test_seeds_depend_on_the_platform():
    assert WORKLOADS["W3"].seeds_on("cpu") == (16,)
    assert WORKLOADS["W3"].seeds_on("gpu") == (256, 2048)
    assert WORKLOADS["W1"].seeds_on("gpu") == (1,)


# ---- timing


class Clock:
    """Time that passes only while work is done: `costs[i]` seconds per turn in the i-th call."""

    def __init__(self, monkeypatch, costs):
        self.now, self.costs, self.turns = 0.0, iter(costs), []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def work(self, turns):
        self.turns.append(turns)
        self.now += turns * next(self.costs)
        return np.zeros(1)


def test_the_median_counts_and_warming_up_does_not(monkeypatch):
    clock = Clock(monkeypatch, [0.4, 0.25, 0.3, 0.1, 0.2, 0.9, 0.25])
    assert timed(clock.work, TimingBudget(5, 1.0)) == pytest.approx((0.25, 0.1, 0.9))
    assert clock.turns == [1, 1, 4, 4, 4, 4, 4]  # a quarter of a second each: four turns make up the least duration


def test_slow_work_is_not_done_more_often_than_needed(monkeypatch):
    clock = Clock(monkeypatch, [20.0, 9.0, 8.0, 10.0])
    assert timed(clock.work, TimingBudget(3, 1.0)) == pytest.approx((9.0, 8.0, 10.0))
    assert clock.turns == [1, 1, 1, 1]


def test_rates_turn_the_spread_around():
    assert Spread(0.5, 0.25, 1.0).per(100) == {"median": 200, "min": 100, "max": 400}


def test_the_split_adds_up_to_the_whole():
    alone = {"environment": 1.0, "rollout": 3.0, "targets": 0.5, "shuffle": 0.25, "update": 4.0}
    parts = split(8.0, alone)
    assert parts == {
        "environment": 1.0, "policy": 2.0, "targets": 0.5, "shuffle": 0.25, "gradients": 3.75, "rest": 0.5,
    }  # fmt: skip
    assert sum(parts.values()) == 8.0


# ---- a workload end to end

TOY = Run(
    config=Config(num_envs=2, num_steps=4, num_epochs=2, num_minibatches=2, total_timesteps=800),
    network=NetworkConfig(hidden_sizes=(4,)),
)


def products(run):
    """FLOP of the matrix products of one update of the toy: 8 steps of CartPole, layers of 4."""
    actor, critic = 2 * (4 * 4 + 4 * 2), 2 * (4 * 4 + 4 * 1)  # of one observation
    first = 2 * 4 * 4  # of the first layer: the gradient of its input is not needed
    # what is replayed after the update is the policy alone
    rollout, values, cut, replay = 8 * actor, (8 + 2) * critic, 2 * 2 * critic, 8 * actor
    outer = 2 * 4 * (1 + 2)  # the gradients of the heads' inputs, column by column, are no matrix products to XLA
    epoch = 8 * (3 * (actor + critic) - 2 * first - outer)
    return rollout + values + cut + run.config.num_epochs * epoch + replay


def test_a_toy_workload_end_to_end(monkeypatch, capsys, tmp_path):
    """All in this process, without a cache: the numbers, their JSON, the table and the picture."""
    monkeypatch.setattr(
        benchmark, "run_in_subprocess", lambda function, *args, say=None: function(*args, *([say] if say else []))
    )
    monkeypatch.setattr(measure, "use_cache", lambda folder: None)
    monkeypatch.setattr(benchmark, "machine", lambda: {"cpu": "x", "cores": 2, "platform": "cpu", "device": "cpu"})
    monkeypatch.setattr(benchmark, "ceilings", lambda effort: {"matmul_flops_per_s": 1e9, "memory_bytes_per_s": 1e8})
    warm = {"trace_warm_s": 0.5, "compile_warm_s": 0.25, "from_cache": True}
    monkeypatch.setattr(benchmark, "compile_warm", lambda *_: warm)
    monkeypatch.setitem(WORKLOADS, "toy", Workload(TOY, "two seeds of a toy", num_seeds=2))
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        code = main.main(["bench", "--workload", "toy", "--json", str(tmp_path / "r.json"), "--seconds", "0"])
    out = capsys.readouterr().out
    assert code == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"r.json", "bench.png"}
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) == {"machine", "versions", "effort", "workloads"}
    assert set(report["versions"]) >= {"python", "jax", "jaxlib", "purejaxppo"}
    toy = report["workloads"]["toy"]
    assert toy["flags"]["XLA_FLAGS"] == os.environ["XLA_FLAGS"]  # those that the command has set among them
    assert (toy["steps_per_update"], toy["num_seeds"], toy["num_devices"]) == (16, 2, 2)
    rate = toy["steps_per_s"]
    assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert rate["median"] == pytest.approx(16 / toy["update_s"]["median"])
    assert sum(toy["split_s"].values()) == pytest.approx(toy["update_s"]["median"])
    assert toy["compile"]["cold_s"] > toy["compile"]["trace_cold_s"] > 0
    assert toy["compile"]["warm_s"] == 0.75
    assert toy["kernels"]["loops_of_assumed_length"] == 1  # over the truncations of a rollout
    assert toy["kernels"]["per_update"] > 4 * toy["kernels"]["per_env_step"] + 4 * toy["kernels"]["per_minibatch"] > 0
    assert toy["flops_per_step"] == products(TOY) / 8  # one of the two seeds is on each device, and both count
    assert toy["flops_per_step"] > sum(toy["phases"][name]["flops"] for name in ("rollout", "update")) / 16 > 0
    assert toy["matmul_fraction"] == pytest.approx(rate["median"] * toy["flops_per_step"] / 1e9)
    assert toy["memory_fraction"] == pytest.approx(rate["median"] * toy["bytes_per_step"] / 1e8)
    assert toy["peak_memory_bytes"] > 0
    assert "toy: compiling the training program" in out
    assert "kernels per minibatch" in out


def test_matrix_products_are_those_of_the_network():
    config = dataclasses.replace(TOY.config, num_epochs=1, num_minibatches=1)
    run = dataclasses.replace(TOY, config=config)
    algo, h = algorithm(run), as_traced(TOY.hyperparams)
    state = jax.eval_shape(algo.init, jax.random.key(0), h)
    assert count(jax.jit(algo.update).lower(state, h).compile().as_text()).flops == products(run)


# ---- what breaks

MACHINE = {"cpu": "Some CPU", "cores": 2, "platform": "cpu", "device": "cpu", "load_before": 0.0}
RESULT = {
    "num_seeds": 1,
    "compile": {"trace_cold_s": 1.0, "compile_cold_s": 9.0},
    "steps_per_s": {"median": 1000.0, "min": 900.0, "max": 1100.0},
    "update_s": {"median": 0.5, "min": 0.4, "max": 0.6},
    "split_s": split(0.5, {"environment": 0.1, "rollout": 0.2, "targets": 0.05, "shuffle": 0.01, "update": 0.2}),
    "kernels": {"per_env_step": 33.0, "per_minibatch": 199.0, "per_update": 8401.0},
    "flops_per_step": 227e3,
    "bytes_per_step": 65e3,
    "peak_memory_bytes": 155_000_000,
}


def answers(monkeypatch, platform="cpu", broken=()):
    """`bench` with processes that answer at once; those of the functions named in `broken` fail."""
    asked = []

    def answer(function, *args, say=None):
        name = function.__name__
        asked.append((name, args))
        if name in broken or (name == "speed" and (name, args[1]) in broken):
            raise ChildFailed("its process ended with exit code -9")
        return {
            "machine": MACHINE | {"platform": platform},
            "ceilings": {"matmul_flops_per_s": 1e9, "memory_bytes_per_s": 1e9},
            "measure_cold": RESULT | {"compile": dict(RESULT["compile"])},
            "compile_warm": {"trace_warm_s": 1.0, "compile_warm_s": 0.5, "from_cache": True},
            "speed": {"num_envs": args[1] if name == "speed" else 0, "steps_per_s": RESULT["steps_per_s"]},
            "drift": {"seconds": [0.1] * 200, "last_to_first": 1.0},
        }[name]

    monkeypatch.setattr(benchmark, "run_in_subprocess", answer)
    monkeypatch.setattr(scaling, "run_in_subprocess", answer)
    return asked


def test_a_workload_that_fails_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    answers(monkeypatch, broken={"compile_warm"})
    assert main.main(["bench", "--workload", "W1", "W2", "--out", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "W1: failed: its process ended with exit code -9" in out
    assert "purejaxppo: W2 failed: its process ended with exit code -9" in err
    assert {entry.name for entry in tmp_path.iterdir()} == {"bench.png"}


def test_by_default_all_that_suits_the_platform(monkeypatch):
    answers(monkeypatch)
    assert list(benchmark.run_benchmark(None, TimingBudget(), print)["workloads"]) == ["W1", "W2", "W3", "W4", "W5"]
    answers(monkeypatch, "gpu")
    names = ["W1", "W2", "W3 x 256", "W3 x 2048", "W4", "W5", "W6"]
    assert list(benchmark.run_benchmark(None, TimingBudget(), print)["workloads"]) == names


@pytest.mark.parametrize(("platform", "last"), [("cpu", 14), ("gpu", 17)])
def test_curves(monkeypatch, platform, last):
    answers(monkeypatch, platform)
    report = benchmark.run_benchmark({"W1": WORKLOADS["W1"]}, TimingBudget(), print, WORKLOADS["W1"].run)
    assert [point["num_envs"] for point in report["scaling"]] == [2**i for i in range(6, last + 1)]
    assert report["drift"]["last_to_first"] == 1.0


def test_a_curve_ends_where_memory_does(monkeypatch):
    asked = answers(monkeypatch, broken={("speed", 1024)})
    report = benchmark.run_benchmark({"W1": WORKLOADS["W1"]}, TimingBudget(), print, WORKLOADS["W1"].run)
    assert [point["num_envs"] for point in report["scaling"]] == [64, 128, 256, 512]
    assert asked[-1][0] == "drift"


def test_speed_and_drift_of_a_toy():
    point = scaling.speed(TOY, 4, TimingBudget(2, 0.0))
    assert point["num_envs"] == 4
    assert point["steps_per_s"]["median"] > 0
    seconds = scaling.drift(TOY, 10)["seconds"]
    assert len(seconds) == 10
    assert min(seconds) > 0


def test_a_process_of_its_own_gives_its_result():
    assert run_in_subprocess(operator.sub, 7, 3) == 4
    assert run_in_subprocess(os.getpid) != os.getpid()
    said = []
    assert run_in_subprocess(speaks, "hello", say=said.append) == 5
    assert said == ["hello", "bye"]


def speaks(word, say):
    say(word)
    say("bye")
    return len(word)


def test_a_process_that_breaks_says_how():
    with pytest.raises(ChildFailed, match="ZeroDivisionError: "):
        run_in_subprocess(operator.truediv, 1, 0)
    with pytest.raises(ChildFailed, match="exit code 3"):
        run_in_subprocess(os._exit, 3)


# ---- the command line


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--workload", "W7", "w1"], ["W7: no such workload; did you mean W", "w1: no such workload; did you mean W1"]),
        (["--repetitions", "0"], ["--repetitions 0: must lie between 1 and 1000"]),
        (["--seconds", "nan"], ["--seconds nan: must lie between 0 and 3600"]),
        (["--json", "no/such/folder/x.json"], ["--json no/such/folder: no folder that can be written to"]),
        (["--out", "no-such-folder"], ["--out no-such-folder: no folder that can be written to"]),
        (["--json", "."], ["--json .: is a folder, not a file"]),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(monkeypatch, capsys, args, parts):
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: pytest.fail("measuring began"))
    assert main.main(["bench", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("purejaxppo: error: bench cannot be run so:\n")
    assert err.count("\n") == 1 + len(parts)
    for part in parts:
        assert part in err


def test_the_table_has_a_column_for_each_workload_and_fits():
    result = RESULT | {"matmul_fraction": 0.227, "memory_fraction": 0.065}
    result["compile"] = {"cold_s": 10.0, "warm_s": 1.5}
    report = {"machine": MACHINE, "versions": {"jax": "0.10.2"}}
    report["workloads"] = dict.fromkeys(WORKLOADS, result) | {"W7": {"error": "x"}}
    table = bench_table(report)
    assert [column.header for column in table.columns] == ["", *WORKLOADS, "W7"]
    cells = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert (cells["steps/s"], cells["one update"], cells["compile, cold"]) == ("1k", "500 ms", "10.0 s")
    assert (cells["  environment"], cells["  gradients"], cells["  rest"]) == ("20%", "38%", "10%")
    assert (cells["FLOP per env step"], cells["  of matmul ceiling"], cells["peak memory"]) == (
        "227k",
        "22.7%",
        "155MB",
    )
    assert list(table.columns[7].cells)[:2] == ["failed", ""]


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.4444, "1.44 s"), (0.9999, "1 s"), (0.0053, "5.3 ms"), (8.5e-4, "850 µs"), (70, "70 s")]
)
def test_short_times(seconds, text):
    assert brief(seconds) == text
    assert math.isfinite(seconds)
