"""Results folders are read as they were written: sweeps, and plain runs grouped by their settings."""

import numpy as np
import pytest
import tomli_w
from command_line import problems_of

from purejaxppo.cli.main import main
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.config.toml import dump_toml
from purejaxppo.sweeps.studies import read_study


def plain_run(folder, seed, rate, level, status="finished"):
    """A run folder whose return rises from 0 to `level`."""
    folder.mkdir()
    run = Run(seed=seed, hyperparams=Hyperparams(learning_rate=rate))
    (folder / "config.toml").write_text(dump_toml(run))
    lines = ["timesteps,num_episodes,episode_return_mean,episode_return_min,episode_return_max"]
    lines += [f"{100 * i},20,{level * i / 10},{level * i / 10},{level * i / 10}" for i in range(1, 11)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    summary = {"status": status, "device": "cpu", "versions": {"jax": "0.10"}}
    summary["evaluation"] = {"greedy": {"mean": level}} if status == "finished" else {}
    (folder / "summary.toml").write_text(tomli_w.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path):
    given = [(0, 1e-3, 10.0), (1, 1e-3, 12.0), (0, 1e-2, 30.0), (1, 1e-2, 34.0)]
    return [plain_run(tmp_path / f"run{i}", *x) for i, x in enumerate(given)]


def test_runs_that_differ_in_their_seed_are_one_setting(runs):
    study = read_study(runs)
    assert [(a.label, a.seeds) for a in study.arms] == [("learning_rate=0.001", (0, 1)), ("learning_rate=0.01", (0, 1))]
    np.testing.assert_array_equal(study.arms[1].scores, [30.0, 34.0])
    np.testing.assert_allclose(study.arms[0].curves[:, -1], [10.0, 12.0])
    np.testing.assert_allclose(study.arms[0].curves[0, study.arms[0].timesteps == 500], 5.0)


def test_a_run_that_failed_counts_as_failed(runs, tmp_path):
    study = read_study([*runs, plain_run(tmp_path / "bad", 2, 1e-3, 9.0, "diverged")])
    assert study.arms[0].status == ("finished", "finished", "failed")
    assert np.isnan(study.arms[0].scores[2])


def test_compare_and_report_print_the_ranking(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert out.index("learning_rate=0.01 ") < out.index("learning_rate=0.001 ")
    assert "fewer than 10 seeds" in out
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_folder_without_results_is_a_problem(runs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problems_of("report", empty) == {(str(empty), "file")}
    assert problems_of("compare", runs[0], empty) == {(str(empty), "file")}
    assert problems_of("compare", runs[0]) == {("RUN", "missing")}
    (empty / "sweep.json").write_text("{}")
    assert problems_of("report", empty) == {(str(empty), "file")}
