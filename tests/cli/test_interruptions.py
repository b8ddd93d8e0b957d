"""Signals, full disks, deleted folders and failing displays at any moment of a session: what was learned is saved."""

import os
import shutil
import signal
import threading
import tomllib

import fakes
import pytest
from command_line import RUN_FILES

from purejaxppo.cli import resume_command, session, train_command
from purejaxppo.cli.main import dispatch
from purejaxppo.config.checks import check
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training import recorder
from purejaxppo.training.checkpoint_folder import list_checkpoints

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
NUM_UPDATES = 7  # of the settings `tiny`


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Make `train` and `resume` use the fake algorithm of `fakes`; no curve is drawn unless a test wants one."""

    def build(run, problems=(), source=""):
        check(run, problems, source)
        return fakes.fake_algorithm(run.config)

    for command in (train_command, resume_command):
        monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(session, "evaluate_policy", lambda *_: fakes.FIGURES)
    monkeypatch.setattr("purejaxppo.analysis.curves.plot_curve", lambda path, *_: path.write_bytes(b""))


def run(*args) -> int:
    """Run a command -> its exit code, without the end of the process that `main` makes of some."""
    return dispatch([str(arg) for arg in args])


def updates_of(folder) -> list[float]:
    return read_csv(folder / "metrics.csv")["total_loss"].tolist()


def calling(monkeypatch, owner, name, action, at=1):
    """Call `action` when a function is called for the `at`-th time, before it does its work."""
    real, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def sending(number):
    return lambda: os.kill(os.getpid(), number)


# ---- signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_training_saves_and_the_run_can_be_resumed(monkeypatch, tiny, tmp_path, capsys, number):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        calling(patch, recorder.Recorder, "write", sending(number), at=2)
        assert run("train", tiny, "--out", folder) == 128 + number
    done = len(updates_of(folder))
    assert 0 < done < NUM_UPDATES
    assert int(list_checkpoints(folder)[0].name) == done
    assert f"purejaxppo resume {folder}" in capsys.readouterr().err
    assert run("resume", folder) == 0
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_evaluation_loses_nothing(monkeypatch, tiny, tmp_path, number):
    go_on = threading.Event()

    def evaluate(*_):
        os.kill(os.getpid(), number)
        go_on.wait(60)
        return fakes.FIGURES

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate_policy", evaluate)
        assert run("train", tiny, "--out", folder) == 128 + number
        go_on.set()
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    assert tomllib.loads((folder / "summary.toml").read_text())["evaluation"] == {}
    assert run("resume", folder) == 0  # repeats the evaluation
    assert tomllib.loads((folder / "summary.toml").read_text())["evaluation"]["greedy"] == fakes.FIGURES


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("step", ["save_in_run", "save_policy"])
def test_a_signal_in_the_final_save_loses_nothing(monkeypatch, tiny, tmp_path, number, step):
    folder = tmp_path / "run"
    calling(monkeypatch, recorder, step, sending(number))
    assert run("train", tiny, "--out", folder) == 128 + number
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    assert list_checkpoints(folder)[0].name == f"{NUM_UPDATES:010d}"
    assert tomllib.loads((folder / "summary.toml").read_text())["status"] == "finished"


def test_a_signal_while_the_results_are_written_loses_nothing(monkeypatch, tiny, tmp_path):
    folder = tmp_path / "run"
    calling(monkeypatch, session, "write_results", sending(signal.SIGTERM))
    assert run("train", tiny, "--out", folder) == 128 + signal.SIGTERM
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES
    assert tomllib.loads((folder / "summary.toml").read_text())["evaluation"]["greedy"] == fakes.FIGURES


def test_a_second_signal_never_separates_the_last_row_from_the_last_state(monkeypatch, tiny, tmp_path):
    """It arrives between the state and its rows; both belong to the checkpoint."""
    folder = tmp_path / "run"

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        calling(patch, recorder.Recorder, "write", twice, at=2)
        assert run("train", tiny, "--out", folder) == 128 + signal.SIGTERM
    assert int(list_checkpoints(folder)[0].name) == len(updates_of(folder))
    assert run("resume", folder) == 0
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))


def test_a_chunk_that_takes_too_long_after_a_signal_is_given_up(monkeypatch, tiny, tmp_path):
    """As while compiling, or where one update takes minutes."""
    from purejaxppo.training import loop

    go_on, real = threading.Event(), loop.iterate

    def iterate(algo, state, h, num_updates, chunk):
        if int(state.num_updates):
            os.kill(os.getpid(), signal.SIGTERM)
            go_on.wait(60)
        return real(algo, state, h, num_updates, chunk)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "iterate", iterate)
        patch.setattr(session, "GRACE_SECONDS", 0.0)
        assert run("train", tiny, "--out", folder) == 128 + signal.SIGTERM
        go_on.set()
    assert updates_of(folder) == [1.0]
    assert run("resume", folder) == 0
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))


# ---- files and loggers that fail


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_for_a_while_costs_warnings(monkeypatch, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        real = recorder.save_in_run
        states = iter([full, full, real, full])
        patch.setattr(recorder, "save_in_run", lambda *args: next(states, real)(*args))
        assert run("train", tiny, "--out", folder, "--checkpoint-every", 1) == 0
    err = capsys.readouterr().err
    assert err.count("No space left on device") == 2  # when it fills up, and when it does so again
    assert "3 attempts to write" in err
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))
    assert list_checkpoints(folder)[0].name == f"{NUM_UPDATES:010d}"


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_final_save_that_fails_is_an_error_that_names_the_path(monkeypatch, tiny, tmp_path, capsys, operation):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        calling(patch, recorder.Recorder, "write", lambda: patch.setattr(os, operation, full))
        assert run("train", tiny, "--out", folder) == 1
    err = capsys.readouterr().err
    assert f"written to {folder}: No space left on device" in err
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_full_disk_leaves_the_last_good_checkpoint(monkeypatch, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 3) == 0
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_in_run", full)
        assert run("resume", folder) == 1
    assert [path.name for path in list_checkpoints(folder)] == ["0000000003"]
    assert run("resume", folder) == 0
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))


def test_a_folder_that_is_deleted_does_not_end_training(monkeypatch, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    calling(monkeypatch, recorder.Recorder, "write", lambda: shutil.rmtree(folder))
    assert run("train", tiny, "--out", folder, "--checkpoint-every", 1) == 1
    captured = capsys.readouterr()
    assert str(folder) in captured.err
    assert "training continues" in captured.err
    assert "finished: 896 env steps" in captured.out
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_does_not_end_training(monkeypatch, tiny, tmp_path, capsys):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", "somewhere")

    folder = tmp_path / "run"
    for name in ("save_in_run", "save_policy"):
        monkeypatch.setattr(recorder, name, forbidden)
    assert run("train", tiny, "--out", folder, "--checkpoint-every", 1) == 1
    captured = capsys.readouterr()
    assert "finished: 896 env steps" in captured.out
    assert captured.err.count("Permission denied") == 3  # checkpoint and policy once each, and how the run ended


def test_a_display_that_fails_does_not_end_training(monkeypatch, tiny, tmp_path, capsys):
    def broken(*_):
        raise ZeroDivisionError("no columns")

    monkeypatch.setattr("purejaxppo.tracking.progress.report_line", broken)
    assert run("train", tiny, "--out", tmp_path / "run") == 0
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_a_fault_saves_the_last_good_state_and_the_run_goes_on_from_there(monkeypatch, tiny, tmp_path):
    def build(run, problems=(), source=""):
        return fakes.fake_algorithm(run.config, bad_update=5)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "build", build)
        assert run("train", tiny, "--out", folder) == 1
    assert int(list_checkpoints(folder)[0].name) == 4
    assert len(updates_of(folder)) == 5
    assert run("resume", folder, "--learning-rate", 1e-4) == 0
    assert updates_of(folder) == list(range(1, NUM_UPDATES + 1))
