"""`train --evaluate-every`: the best policy stays, training does not notice, and a resumed run repeats nothing."""

import os
import shutil
import signal
import threading
import tomllib
from functools import cache

import fakes
import pytest
from command_line import RUN_FILES
from safetensors.numpy import load_file
from same_runs import assert_same_run

import purejaxppo as pp
from purejaxppo.cli import resume_command, run_log, session, train_command, trained_policy
from purejaxppo.cli.main import dispatch, main
from purejaxppo.config.checks import check
from purejaxppo.config.errors import UsageError
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training import runs, selection
from purejaxppo.training.checkpoint_folder import list_checkpoints
from purejaxppo.training.errors import OutOfMemoryError

SCORES = {2: 5.0, 4: 9.0, 6: 7.0, 7: 9.0}  # of the fake, by update
FILES = RUN_FILES | {"best.safetensors", "evaluations.csv"}


@pytest.fixture
def fake(monkeypatch):
    """Use the fake algorithm of `fakes`, with scores by update; returns the updates that were evaluated."""
    evaluated = []

    def evaluate(algo, policy, seed, num_episodes, greedy, num_updates=0):
        if num_updates:
            assert policy.params.tolist() == [num_updates] * 3
            evaluated.append(num_updates)
        return fakes.FIGURES | {"mean": SCORES.get(num_updates, 1.0)}

    def build(run, problems=(), source=""):
        check(run, problems, source)
        return made(run.config)

    made = cache(fakes.fake_algorithm)
    for command in (train_command, resume_command):
        monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(session, "evaluate_policy", evaluate)
    monkeypatch.setattr("purejaxppo.analysis.curves.plot_curve", lambda path, *_: path.write_bytes(b""))
    return evaluated


def run(*args) -> int:
    return dispatch([str(arg) for arg in args])


def best_of(folder) -> list[float]:
    return load_file(folder / "best.safetensors")["params"].tolist()


def rows_of(folder) -> list[tuple[float, float]]:
    columns = read_csv(folder / "evaluations.csv")
    return list(zip(columns["num_updates"].tolist(), columns["mean"].tolist(), strict=True))


def kept(folder) -> list[int]:
    return [int(entry.name) for entry in list_checkpoints(folder)]


@pytest.mark.parametrize("every", ["1", "auto", "off"])
def test_the_best_policy_and_its_checkpoint_stay(fake, tiny, tmp_path, every):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--evaluate-every", 2, "--checkpoint-every", every) == 0
    assert {entry.name for entry in folder.iterdir()} == FILES
    assert fake == [2, 4, 6, 7]
    assert rows_of(folder) == list(SCORES.items())
    assert best_of(folder) == [4.0] * 3
    assert kept(folder) == {"1": [7, 6, 5, 4], "auto": [7, 4, 2], "off": [7]}[every]
    assert tomllib.loads((folder / "summary.toml").read_text())["best"] == {"num_updates": 4, "mean": 9.0}


@pytest.mark.parametrize("every", ["3", "off"])
def test_sessions_evaluate_what_one_run_evaluates(fake, tiny, tmp_path, every):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--evaluate-every", 2, "--checkpoint-every", every]
    assert run("train", tiny, "--out", whole, *options) == 0
    assert run("train", tiny, "--out", cut, *options, "--updates", 1) == 0
    for _ in range(6):
        assert run("resume", cut, "--updates", 1, "--checkpoint-every", every) == 0
    assert fake == [2, 4, 6, 7] * 2
    assert run("resume", cut) == 0  # complete: only the final evaluation
    assert fake == [2, 4, 6, 7] * 2
    for name in ("evaluations.csv", "best.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_a_crash_between_checkpoint_and_best_policy_loses_neither(fake, tiny, tmp_path):
    """The file is that of the policy before; rows after the checkpoint are cut off."""
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--evaluate-every", 2, "--updates", 2) == 0
    before = (folder / "best.safetensors").read_bytes()
    assert run("resume", folder, "--updates", 2) == 0
    (folder / "best.safetensors").write_bytes(before)
    with open(folder / "evaluations.csv", "a") as file:
        file.write("6,768,7")
    assert run("resume", folder) == 0
    assert best_of(folder) == [4.0] * 3
    assert rows_of(folder) == list(SCORES.items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_evaluation_loses_nothing(fake, monkeypatch, tiny, tmp_path, number):
    """It takes longer than the grace period; the resumed run repeats it."""
    go_on, usual = threading.Event(), session.evaluate_policy

    def evaluate(*args):
        if args[-1] == 4:
            os.kill(os.getpid(), number)
            go_on.wait(60)
        return usual(*args)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(session, "evaluate_policy", evaluate)
        patch.setattr(session, "GRACE_SECONDS", 0.0)
        assert run("train", tiny, "--out", folder, "--evaluate-every", 2) == 128 + number
        go_on.set()
    assert kept(folder)[0] == 4
    assert rows_of(folder) == [(2, 5.0)]
    assert run("resume", folder) == 0
    assert rows_of(folder) == list(SCORES.items())
    assert best_of(folder) == [4.0] * 3


def test_an_evaluation_that_fails_does_not_end_training(fake, monkeypatch, tiny, tmp_path, capsys):
    usual = session.evaluate_policy

    def evaluate(*args):
        if args[-1] == 4:
            raise UsageError("evaluation: the environment returned a NaN")
        if args[-1] == 6:
            raise OutOfMemoryError("an evaluation needs 8 GB")
        return usual(*args)

    monkeypatch.setattr(session, "evaluate_policy", evaluate)
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--evaluate-every", 2) == 0
    assert rows_of(folder) == [(2, 5.0), (7, 9.0)]
    err = capsys.readouterr().err
    assert "no evaluation after update 4: evaluation: the environment returned a NaN" in err
    assert "no evaluation after update 6: an evaluation needs 8 GB" in err


def test_a_best_policy_that_cannot_be_written_is_written_with_the_next_save(fake, monkeypatch, tiny, tmp_path):
    from purejaxppo.training import recorder

    real, calls = recorder.save_best, []

    def full(*args):
        calls.append(args[-1].best)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")
        real(*args)

    monkeypatch.setattr(recorder, "save_best", full)
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--evaluate-every", 2) == 0
    assert calls == [2, 4, 4]
    assert best_of(folder) == [4.0] * 3


def test_a_lost_best_policy_is_named(fake, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    options = ["--evaluate-every", 2, "--checkpoint-every", "off"]
    assert run("train", tiny, "--out", folder, *options, "--updates", 5) == 0
    (folder / "best.safetensors").unlink()
    assert run("resume", folder, "--checkpoint-every", "off") == 0
    assert "that of update 4, is lost" in capsys.readouterr().err
    assert best_of(folder) == [7.0] * 3


def test_evaluations_can_begin_and_end_when_a_run_is_resumed(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 3) == 0
    assert run("resume", folder, "--evaluate-every", 2, "--updates", 2) == 0
    assert run("resume", folder, "--evaluate-every", 0) == 0
    assert rows_of(folder) == [(4, 9.0)]
    assert best_of(folder) == [4.0] * 3
    assert kept(folder) == [7, 5, 4]


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


def test_the_time_of_evaluations_is_not_that_of_training(fake, monkeypatch, tiny, tmp_path, capsys):
    """Of a clock that stands still but in evaluations; a resumed run begins with one."""
    clock, usual = Clock(), session.evaluate_policy
    for module in (run_log, selection):
        monkeypatch.setattr(module, "time", clock)

    def slow(*args):
        clock.now += 1000.0
        return usual(*args)

    monkeypatch.setattr(session, "evaluate_policy", slow)
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    before = clock.now
    assert run("resume", folder, "--evaluate-every", 2) == 0
    assert fake == [2, 4, 6, 7]
    assert clock.now - before == 6000.0
    assert read_csv(folder / "metrics.csv")["wall_time"].tolist() == [0.0] * 7
    summary = tomllib.loads((folder / "summary.toml").read_text())
    assert (summary["seconds"], summary["seconds_first_update"]) == (0.0, 0.0)
    assert capsys.readouterr().out.count("in 0.0 s (compilation and first update: 0.0 s)") == 2


def test_training_with_evaluations_is_bitwise_training_without(monkeypatch, tiny, tmp_path, capsys):
    """With the real algorithm, in one run and in sessions; the best policy can be evaluated and loaded."""
    made = []

    def build(run, problems=(), source=""):
        check(run, problems, source)
        made[:] = made or [runs.build(run)]
        return made[0]

    for command in (train_command, resume_command, trained_policy):
        monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(session, "EVALUATION_EPISODES", 4)
    monkeypatch.setattr("purejaxppo.analysis.curves.plot_curve", lambda path, *_: path.write_bytes(b""))
    without, whole, cut = (tmp_path / name for name in ("without", "whole", "cut"))
    assert run("train", tiny, "--out", without) == 0
    assert run("train", tiny, "--out", whole, "--evaluate-every", 2) == 0
    assert run("train", tiny, "--out", cut, "--evaluate-every", 2, "--updates", 3) == 0
    shutil.copytree(cut, tmp_path / "copy")
    assert run("resume", tmp_path / "copy") == 0
    for folder in (whole, tmp_path / "copy"):
        assert_same_run(without, folder)
    for name in ("evaluations.csv", "best.safetensors", "policy.safetensors"):
        assert (whole / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
    assert len({mean for _, mean in rows_of(whole)}) > 1  # each evaluation plays other episodes
    best = tomllib.loads((whole / "summary.toml").read_text())["best"]
    assert (best["num_updates"], best["mean"]) == max(rows_of(whole), key=lambda row: row[1])
    capsys.readouterr()
    for args in (["evaluate", str(whole), "--best"], ["evaluate", str(whole / "best.safetensors")]):
        assert main([*args, "--num-episodes", "4"]) == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 1
    action, _ = pp.load(whole / "best.safetensors").act([0.0, 0.0, 0.0, 0.0])
    assert action in (0, 1)
