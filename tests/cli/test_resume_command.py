"""`purejaxppo resume`: a continued run is the uninterrupted one, bit for bit, however it was divided."""

import json
import shutil

import fakes
import pytest
from command_line import RUN_FILES, TINY, problems_of
from same_runs import VARIANTS, assert_same_run, newest

from purejaxppo.cli import resume_command, session, train_command
from purejaxppo.cli.main import dispatch, main
from purejaxppo.config.checks import check
from purejaxppo.config.errors import ConfigError, UsageError
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training import runs
from purejaxppo.training.checkpoint_folder import list_checkpoints, save_in_run
from purejaxppo.training.checkpoints import load_checkpoint
from purejaxppo.training.errors import CheckpointError
from purejaxppo.training.manifest import MANIFEST
from purejaxppo.training.resume import open_run
from purejaxppo.training.run_lock import lock_run


@pytest.fixture
def quick(monkeypatch):
    """Make `train` and `resume` compile an algorithm once, and evaluate nothing."""
    made = {}

    def build(run, problems=(), source=""):
        check(run, problems, source)
        key = (run.config, run.network)
        return made.setdefault(key, None) or made.update({key: runs.build(run)}) or made[key]

    use(monkeypatch, build)


@pytest.fixture
def fake(monkeypatch):
    """Make `train` and `resume` use the fake algorithm of `fakes`."""

    def build(run, problems=(), source=""):
        check(run, problems, source)
        return fakes.fake_algorithm(run.config)

    use(monkeypatch, build)


def use(monkeypatch, build):
    for command in (train_command, resume_command):
        monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(session, "evaluate_policy", lambda *_: fakes.FIGURES)
    monkeypatch.setattr(session, "write_results", lambda *_: None)


def run(*args) -> int:
    return main([str(arg) for arg in args])


@pytest.mark.parametrize(
    "variant", [name if name == "plain" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_a_run_in_sessions_is_bitwise_the_run_in_one(quick, tiny, tmp_path, variant):
    """Sessions of 1, 2 and the remaining 4 updates; a copy of the folder shows that its path does not matter."""
    options = VARIANTS[variant]
    assert run("train", tiny, "--out", tmp_path / "whole", *options) == 0
    assert run("train", tiny, "--out", tmp_path / "cut", *options, "--updates", 1) == 0
    assert run("train", "--resume", tmp_path / "cut", "--updates", 2, "--checkpoint-every", 1) == 0
    shutil.copytree(tmp_path / "cut", tmp_path / "copy")
    assert run("resume", tmp_path / "copy") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "copy")


def test_rows_after_the_checkpoint_are_cut_off(fake, tiny, tmp_path):
    """As after a kill: two rows more than the checkpoint has, and half a row."""
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 3) == 0
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    with open(folder / "metrics.csv", "a") as file:
        file.writelines([lines[-1], lines[-1], lines[-1][:20]])
    assert run("resume", folder) == 0
    assert read_csv(folder / "metrics.csv")["total_loss"].tolist() == list(range(1, 8))


def test_rows_that_are_missing_draw_a_warning(fake, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 3) == 0
    (folder / "metrics.csv").unlink()
    assert run("resume", folder) == 0
    assert "rows of updates before the checkpoint are missing" in capsys.readouterr().err
    assert read_csv(folder / "metrics.csv")["total_loss"].tolist() == [4, 5, 6, 7]


def test_a_run_without_a_checkpoint_begins_again(fake, tiny, tmp_path):
    """As after a kill in the first minute: the folder has its settings and some rows."""
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 3) == 0
    shutil.rmtree(folder / "checkpoints")
    assert run("resume", folder) == 0
    assert read_csv(folder / "metrics.csv")["total_loss"].tolist() == list(range(1, 8))
    assert newest(folder).name == "0000000007"


def test_a_complete_run_is_only_evaluated(fake, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder) == 0
    before = (folder / "metrics.csv").read_bytes()
    capsys.readouterr()
    assert run("resume", folder) == 0
    assert "greedy evaluation" in capsys.readouterr().out
    assert (folder / "metrics.csv").read_bytes() == before


def test_checkpoints_come_every_n_updates(fake, tiny, tmp_path):
    assert run("train", tiny, "--out", tmp_path / "run", "--checkpoint-every", 3) == 0
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["0000000007", "0000000006", "0000000003"]


def test_a_structural_setting_is_refused_with_a_diff(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    for args in (["resume", folder], ["train", "--resume", folder]):
        assert problems_of(*args, "--num-steps", 32, "--hidden-sizes", 9) == {
            ("config.num_steps", "conflict"),
            ("network.hidden_sizes", "conflict"),
        }
    other = tmp_path / "other.toml"
    other.write_text(TINY.replace("num_epochs = 2", "num_epochs = 3"))
    with pytest.raises(ConfigError, match=r"config\.num_epochs = 3: it was 2"):
        dispatch(["train", str(other), "--resume", str(folder)])


def test_a_hyperparameter_changes_only_as_an_option_and_the_manifest_records_it(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    other = tmp_path / "other.toml"
    other.write_text(TINY + "[hyperparams]\nlearning_rate = 0.5\n")
    assert problems_of("train", other, "--resume", folder) == {("hyperparams.learning_rate", "conflict")}
    assert run("resume", folder, "--learning-rate", 0.5, "--updates", 2) == 0
    assert run("resume", folder) == 0  # without the option again: the change stays
    manifest = json.loads((newest(folder) / MANIFEST).read_text())
    (override,) = manifest["details"]["overrides"]
    assert (override["update"], override["setting"], override["new"]) == (2, "hyperparams.learning_rate", 0.5)


def test_more_updates_than_the_run_has_need_an_option_unless_the_learning_rate_is_constant(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--lr-anneal", 1) == 0
    assert problems_of("resume", folder, "--updates", 2) == {("--updates", "range")}
    assert run("resume", folder, "--updates", 2, "--total-timesteps", 128 * 9) == 0
    assert run("train", tiny, "--out", tmp_path / "constant", "--lr-anneal", 0) == 0
    assert run("resume", tmp_path / "constant", "--updates", 2) == 0
    for name in ("run", "constant"):
        assert read_csv(tmp_path / name / "metrics.csv")["total_loss"].tolist() == list(range(1, 10))


def test_what_cannot_be_continued_is_one_message(fake, tiny, tmp_path):
    assert problems_of("resume") == {("RUN_DIR", "missing")}
    assert problems_of("resume", tmp_path / "none", "--checkpoint-every", "often") == {
        ("RUN_DIR", "file"),
        ("--checkpoint-every", "type"),
    }
    assert problems_of("train", tiny, "--resume", tmp_path, "--out", tmp_path / "x") == {("--out", "conflict")}
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        dispatch(["resume", str(tmp_path)])
    assert run("resume", tmp_path) == 2
    assert run("train", tiny, "--out", tmp_path / "run", "--updates", 2) == 0
    with pytest.raises(CheckpointError, match="not a run folder"):
        dispatch(["resume", str(newest(tmp_path / "run"))])


def test_a_damaged_checkpoint_is_named_and_the_one_before_continues(fake, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--checkpoint-every", 2, "--updates", 5) == 0
    (arrays,) = newest(folder).glob("arrays-*")
    arrays.write_bytes(arrays.read_bytes()[:-1])
    assert run("resume", folder) == 0
    captured = capsys.readouterr()
    assert arrays.name in captured.err
    assert "continuing after update 4" in captured.out
    assert read_csv(folder / "metrics.csv")["total_loss"].tolist() == list(range(1, 8))


def test_two_processes_never_write_one_run(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    before = (folder / "metrics.csv").read_bytes()
    with lock_run(folder), pytest.raises(UsageError, match="another process writes this run"):
        dispatch(["resume", str(folder)])
    assert (folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("content", ["pipe", "link", "large"])
def test_settings_that_are_no_small_file_are_refused(fake, tiny, tmp_path, content):
    import os

    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    path = folder / "config.toml"
    path.unlink()
    {"pipe": os.mkfifo, "link": lambda p: p.symlink_to(tiny), "large": lambda p: p.touch()}[content](path)
    if content == "large":
        os.truncate(path, 1 << 30)
    assert run("resume", folder) == 2


def test_other_libraries_draw_a_warning(fake, tiny, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    monkeypatch.setattr("purejaxppo.training.conditions.library_versions", lambda: {"jax": "99.0"})
    assert run("resume", folder) == 0
    assert "'99.0' now" in capsys.readouterr().err


def test_every_file_of_a_run_is_there(fake, tiny, tmp_path, monkeypatch):
    from purejaxppo.training.results import write_results

    monkeypatch.setattr(session, "write_results", write_results)
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    assert run("resume", folder) == 0
    assert {entry.name for entry in folder.iterdir()} == RUN_FILES


def test_a_checkpoint_with_parameters_that_are_nan_is_refused(fake, tiny, tmp_path):
    folder = tmp_path / "run"
    assert run("train", tiny, "--out", folder, "--updates", 2) == 0
    saved = open_run(folder)
    algo = fakes.fake_algorithm(saved.run.config)
    state = load_checkpoint(newest(folder), algo).state
    state = state._replace(params=state.params * float("nan"))
    save_in_run(folder, state, saved.run.hyperparams, algo, saved.manifest.details)
    with pytest.raises(CheckpointError, match="3 parameters that are NaN"):
        dispatch(["resume", str(folder)])
