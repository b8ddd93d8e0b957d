"""`purejaxppo sweep` from the command line to the report, with each method that chooses settings while it runs."""

import importlib.util
import sys

import pytest
from command_line import finish, problems_of, start

from purejaxppo.cli.main import dispatch
from purejaxppo.cli.sweep_command import SweepCommand, with_options
from purejaxppo.config.errors import UsageError
from purejaxppo.config.toml import from_tables
from purejaxppo.sweeps.table import read_table

pytestmark = pytest.mark.usefixtures("keys_move")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["population", "optuna"])
def test_a_method_from_the_command_line_to_the_report(tiny, tmp_path, method, capsys):
    if method == "optuna":
        pytest.importorskip("optuna")
    options = ["--method", method, "--num-settings", 4, "--learning-rate", "1e-3:1e-1:log"]
    counts = ["--seeds", 2, "--test-seeds", 2, "--lanes", 4, "--out", tmp_path / "out"]
    assert dispatch([str(word) for word in ("sweep", tiny, *options, *counts)]) == 0
    trials = read_table(tmp_path / "out" / "trials.csv")
    assert len(trials) == 4 * 2 + 2
    assert {trial["status"] for trial in trials} == {"finished"}
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "optimism" in report
    assert method in report
    assert len(report.splitlines()) > 10
    assert capsys.readouterr().out.count("100%") >= 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs Optuna")
def test_a_storage_that_cannot_be_reached_is_exit_code_2(tmp_path):
    args = ["sweep", "CartPole-v1", "--method", "optuna", "--learning-rate", "1e-4:1e-1:log"]
    code, _, error = finish(start([*args, "--storage", f"sqlite:///{tmp_path}/none/s.db", "--out", tmp_path / "out"]))
    assert code == 2
    assert "Traceback" not in error
    assert error.count("cannot be reached") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("1e-4:1e-1", {"low": 1e-4, "high": 1e-1}),
        ("1e-4:1e-1:log", {"low": 1e-4, "high": 1e-1, "scale": "log"}),
        ("1e-4:1e-1:log:16", {"low": 1e-4, "high": 1e-1, "scale": "log", "count": 16}),
        ("0:1:3", {"low": 0, "high": 1, "count": 3}),
        ("1e-4,1e-1", [1e-4, 1e-1]),
    ],
)
def test_options_that_are_axes(text, axis):
    joined, base, _ = with_options({}, {}, SweepCommand(changes={"learning_rate": text}))
    assert joined["axes"] == {"hyperparams.learning_rate": axis}
    assert base == {}


def test_an_interval_of_the_command_line_is_checked():
    assert problems_of("sweep", "CartPole-v1", "--gamma", "0.9:0.5:3") == {("hyperparams.gamma", "range")}
    assert problems_of("sweep", "CartPole-v1", "--gamma", "0.5:0.9") == {("hyperparams.gamma.count", "missing")}
    assert problems_of("sweep", "CartPole-v1", "--gamma", "0.5:0.9:lig:3") == {("hyperparams.gamma.scale", "choice")}


def test_evaluations_during_training_are_refused():
    assert problems_of("sweep", "CartPole-v1", "--evaluate-every", "5") == {("evaluate_every", "conflict")}


OF_NEW_SWEEPS = {
    "--out": "out",
    "--seeds": 3,
    "--test-seeds": 0,
    "--method": "random",
    "--num-settings": 4,
    "--batch": 2,
    "--storage": "sqlite://",
    "--study": "ours",
    "--share": 0.5,
    "--halvings": 0,
    "--keep": "all",
    "--lanes": 2,
}


def test_resume_takes_no_option_of_a_new_sweep(tmp_path):
    words = [word for option in OF_NEW_SWEEPS.items() for word in option]
    found = problems_of("sweep", "CartPole-v1", "--gamma", 0.9, "--resume", tmp_path, *words)
    assert found == {(name, "conflict") for name in ("SWEEP", "the settings", *OF_NEW_SWEEPS)}
    assert problems_of("sweep", "--resume", tmp_path, "--trial", 0, "--parquet") == {("--parquet", "conflict")}


def test_a_trial_is_of_the_folder_of_resume():
    assert problems_of("sweep", "CartPole-v1", "--trial", 3) == {("--trial", "missing")}


def test_resume_finds_out_first_whether_parquet_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"purejaxppo\[parquet\]"):
        dispatch(["sweep", "--resume", str(tmp_path), "--parquet"])


@pytest.mark.parametrize("text", ["0.1:0.2:3:4", "0.1:0.2:log:linear", "0.1:0.2:log:3:4", "true:false", "true:false:3"])
def test_what_is_no_interval_is_refused(text):
    joined, base, _ = with_options({}, {}, SweepCommand(changes={"gamma": text}))
    assert "axes" not in joined, "it is a single value"
    assert [(problem.key, problem.kind) for problem in from_tables(base)[1]] == [("hyperparams.gamma", "type")]
