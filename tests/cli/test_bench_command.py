"""`purejaxppo bench` refuses invalid options before it measures, and writes a table, a figure and JSON."""

import json
import os

import pytest
from bench_reports import answer_at_once
from command_line import problems_of
from readable import readable

from purejaxppo.bench import benchmark
from purejaxppo.cli import main
from purejaxppo.devices import cpu


@pytest.mark.parametrize(
    ("args", "problems"),
    [
        (["--workload", "W7"], {("--workload", "choice")}),
        (["--workload"], {("--workload", "missing")}),
        (["--repetitions", "0", "--seconds", "nan"], {("--repetitions", "range"), ("--seconds", "range")}),
        (["--json", "no/such/folder/x.json"], {("--json", "file")}),
        (["--out", "no-such-folder", "--quick"], {("--out", "file"), ("--quick", "unknown")}),
        (["--json", "."], {("--json", "file")}),
    ],
    ids=readable,
)
def test_every_wrong_option_is_named_before_anything_is_measured(monkeypatch, args, problems):
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: pytest.fail("measuring began"))
    assert problems_of("bench", *args) == problems


def test_it_writes_a_table_a_figure_and_all_values(monkeypatch, capsys, tmp_path):
    answer_at_once(monkeypatch)
    options = ["--json", str(tmp_path / "r.json"), "--repetitions", "3", "--seconds", "0.25"]
    assert main.main(["bench", "--workload", "W1", "W2", *options]) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"r.json", "bench.png"}
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["workloads"]) == {"W1", "W2"}
    assert report["budget"] == {"repetitions": 3, "seconds": 0.25}
    assert "kernels per minibatch" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--fast-flags"]])
def test_the_workloads_get_the_fast_flags_only_on_request(monkeypatch, tmp_path, options):
    seen = []
    monkeypatch.setenv(cpu.FAST_FLAGS_VARIABLE, "0")
    answer_at_once(monkeypatch)
    measure = benchmark.run_in_subprocess
    monkeypatch.setattr(
        benchmark,
        "run_in_subprocess",
        lambda *args, **kwargs: seen.append(os.environ.get(cpu.FAST_FLAGS_VARIABLE)) or measure(*args, **kwargs),
    )
    assert main.main(["bench", "--workload", "W1", "--out", str(tmp_path), *options]) == 0
    assert set(seen) == ({"1"} if options else {"0"})


def test_a_workload_that_fails_is_an_exit_code_and_the_others_are_reported(monkeypatch, capsys, tmp_path):
    answer_at_once(monkeypatch, broken={"compile_warm"})
    assert main.main(["bench", "--workload", "W1", "W2", "--out", str(tmp_path)]) == 1
    assert "W2 failed: its process ended with exit code -9" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"bench.png"}
