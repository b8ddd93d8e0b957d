"""A training session finishes, diverges, or is stopped by signals; tests of what it saves in each case."""

import signal
import tomllib

import fakes
import pytest
from command_line import RUN_FILES, finish, start_fake, wait_for
from safetensors.numpy import load_file

from purejaxppo.cli import resume_command, session, train_command
from purejaxppo.cli.main import main
from purejaxppo.config.checks import check
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training.errors import OutOfMemoryError


def faked(monkeypatch, **kwargs) -> None:
    """Make `train` use the fake algorithm of `fakes`, whose policy cannot act."""

    def build(run, problems=(), source=""):
        check(run, problems, source)
        return fakes.fake_algorithm(run.config, **kwargs)

    monkeypatch.setattr(train_command, "build", build)
    monkeypatch.setattr(resume_command, "build", build)
    figures = {"mean": 1.0, "std": 0.0, "min": 1.0, "median": 1.0, "max": 1.0, "mean_length": 1.0}
    monkeypatch.setattr(session, "evaluate_policy", lambda *_: figures | {"episodes": 128, "unfinished": 0})


def params_of(folder) -> list[float]:
    """Return the parameters of a saved policy of `fakes`, which count the updates."""
    return load_file(folder / "policy.safetensors")["params"].tolist()


@pytest.mark.parametrize("num_updates", [1, 2, 7, 450])
def test_every_update_is_logged_once_for_any_chunks(monkeypatch, tiny, tmp_path, num_updates):
    faked(monkeypatch)
    args = ["train", tiny, "--out", tmp_path / "run", "--config.total-timesteps", 128 * num_updates]
    assert main([str(arg) for arg in args]) == 0
    metrics = read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["total_loss"].tolist() == list(range(1, num_updates + 1))
    assert metrics["timesteps"].tolist() == [128 * i for i in range(1, num_updates + 1)]
    assert params_of(tmp_path / "run") == [num_updates] * 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch, capsys, tiny, tmp_path, value):
    faked(monkeypatch, bad_update=5, bad_value=value)
    assert main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 1
    message = capsys.readouterr().err
    for part in ("update 5", f"became {value}", "the policy after update 4"):
        assert part in message
    assert len(read_csv(tmp_path / "run" / "metrics.csv")["kl"]) == 5
    assert params_of(tmp_path / "run") == [4.0] * 3
    summary = tomllib.loads((tmp_path / "run" / "summary.toml").read_text())
    assert (summary["status"], summary["evaluation"]) == ("diverged", {})


def test_a_loss_that_is_not_finite_from_the_start_leaves_no_policy(monkeypatch, capsys, tiny, tmp_path):
    faked(monkeypatch, bad_update=1)
    assert main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 1
    assert "no policy was kept" in capsys.readouterr().err
    assert {entry.name for entry in (tmp_path / "run").iterdir()} == RUN_FILES - {"policy.safetensors", "checkpoints"}


# ---- signals


def long_run(tiny, folder, cost):
    return start_fake(cost, "train", tiny, "--out", folder, "--config.total-timesteps", 128 * 10**6)


def rows_written(folder) -> int:
    file = folder / "metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_keeps_what_was_learned(tiny, tmp_path, number):
    folder = tmp_path / "run"
    process = long_run(tiny, folder, 1e4)
    wait_for(lambda: rows_written(folder) > 5)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 128 + number
    hint = f"to continue: purejaxppo resume {folder}; to evaluate the policy: purejaxppo evaluate {folder}"
    assert err == f"purejaxppo: stopped before the end of the run; {hint}\n"
    assert "interrupted: " in out
    assert out.count("stopping after this chunk") <= 1
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    updates = len(read_csv(folder / "metrics.csv")["kl"])
    assert params_of(folder) == [updates] * 3
    assert tomllib.loads((folder / "summary.toml").read_text())["num_updates"] == updates < 10**6


def test_a_second_signal_does_not_wait_for_the_device(tiny, tmp_path):
    process = long_run(tiny, tmp_path / "run", 1e9)  # the first update takes many minutes
    while "compiling" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    assert "stopping" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    hint = f"to continue: purejaxppo resume {tmp_path / 'run'}"
    assert (code, err) == (130, f"purejaxppo: stopped before the end of the run; {hint}\n")
    assert "stopping" not in out  # the message appears once


@pytest.mark.slow
def test_a_second_signal_keeps_what_was_learned(tiny, tmp_path):
    folder = tmp_path / "run"
    process = long_run(tiny, folder, 3e6)  # an update takes some tenths of a second
    wait_for(lambda: rows_written(folder) > 0)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert "to evaluate the policy" in err
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    updates = len(read_csv(folder / "metrics.csv")["kl"])
    assert params_of(folder) == [updates] * 3


def test_ctrl_c_before_training_ends_the_process_without_a_run_folder(tiny, tmp_path):
    """The fake waits where JAX and the environment would be loaded, so the speed of the machine does not matter."""
    process = start_fake(-1, "train", tiny, "--out", tmp_path / "run")
    while "building" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "purejaxppo: aborted\n")
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_does_not_stop_the_run(tiny, tmp_path):
    folder = tmp_path / "run"
    process = long_run(tiny, folder, 1e4)
    wait_for(lambda: rows_written(folder) > 0)
    process.stdout.close()
    seen = rows_written(folder)
    wait_for(lambda: rows_written(folder) > seen + 200)  # two more lines of the display
    process.send_signal(signal.SIGTERM)
    process.stdout = None
    assert finish(process)[0] == 128 + signal.SIGTERM
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES


def test_a_device_that_runs_out_of_memory_ends_the_run_with_a_forecast(monkeypatch, capsys, tiny, tmp_path):
    def iterate(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    faked(monkeypatch)
    monkeypatch.setattr("purejaxppo.training.loop.iterate", iterate)
    monkeypatch.setattr("purejaxppo.training.memory.settings_that_fit", lambda *_: ["config.num_envs = 4"])
    assert main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 3
    message = capsys.readouterr().err
    for part in ("allocating 8 bytes", "parameters and optimizer state", "config.num_envs = 4"):
        assert part in message


def test_a_final_evaluation_that_does_not_fit_loses_nothing(monkeypatch, capsys, tiny, tmp_path):
    """The policy, the state and the results are there, and `resume` repeats the evaluation."""
    folder = tmp_path / "run"
    faked(monkeypatch)

    def evaluate(*_):
        raise OutOfMemoryError("an evaluation of fake needs at least 8 GB")

    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate_policy", evaluate)
        assert main(["train", str(tiny), "--out", str(folder)]) == 3
    assert "no evaluation: an evaluation of fake needs at least 8 GB" in capsys.readouterr().err
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    assert params_of(folder) == [7.0] * 3
    summary = tomllib.loads((folder / "summary.toml").read_text())
    assert (summary["status"], summary["evaluation"]) == ("finished", {})
    assert main(["resume", str(folder)]) == 0
    assert tomllib.loads((folder / "summary.toml").read_text())["evaluation"]["greedy"]["mean"] == 1.0
