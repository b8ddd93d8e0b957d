"""`purejaxppo bench` refuses wrong options before it measures, and leaves a table, a figure and JSON."""

import json

import pytest
from bench_reports import answer_at_once

from purejaxppo.bench import benchmark
from purejaxppo.cli import main


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--workload", "W7", "w1"], ["--workload W7", "--workload w1"]),
        (["--repetitions", "0"], ["--repetitions 0"]),
        (["--seconds", "nan"], ["--seconds nan"]),
        (["--json", "no/such/folder/x.json"], ["--json no/such/folder"]),
        (["--out", "no-such-folder"], ["--out no-such-folder"]),
        (["--json", "."], ["--json ."]),
    ],
)
def test_every_wrong_option_is_named_before_anything_is_measured(monkeypatch, capsys, args, named):
    monkeypatch.setattr(benchmark, "run_benchmark", lambda *_: pytest.fail("measuring began"))
    assert main.main(["bench", *args]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 + len(named)
    for option in named:
        assert option in err


def test_it_leaves_a_table_a_figure_and_all_numbers(monkeypatch, capsys, tmp_path):
    answer_at_once(monkeypatch)
    options = ["--json", str(tmp_path / "r.json"), "--repetitions", "3", "--seconds", "0.25"]
    assert main.main(["bench", "--workload", "W1", "W2", *options]) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"r.json", "bench.png"}
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["workloads"]) == {"W1", "W2"}
    assert report["budget"] == {"repetitions": 3, "seconds": 0.25}
    assert "kernels per minibatch" in capsys.readouterr().out


def test_a_workload_that_fails_is_an_exit_code_and_the_others_are_reported(monkeypatch, capsys, tmp_path):
    answer_at_once(monkeypatch, broken={"compile_warm"})
    assert main.main(["bench", "--workload", "W1", "W2", "--out", str(tmp_path)]) == 1
    assert "W2 failed: its process ended with exit code -9" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"bench.png"}
