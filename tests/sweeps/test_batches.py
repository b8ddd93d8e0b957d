"""Optuna chooses batches of settings; a sweep that goes on after a kill chooses what it would have chosen."""

import sys

import numpy as np
import pytest
from command_line import problems_of
from tiny_sweeps import RATE, Killed, die_at, run_sweep

import purejaxppo as pp
from purejaxppo.config.errors import UsageError
from purejaxppo.sweeps import optuna_study, store
from purejaxppo.sweeps.optuna_study import hide_password, open_storage
from purejaxppo.sweeps.spec import parse_sweep

GIVEN = {"method": "optuna", "num_settings": 6, "batch": 2, "test_seeds": 2, "axes": RATE | {"gamma": [0.9, 0.99]}}


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted sweep, its rows per point and its rows per trial."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        _, table, trials = run_sweep(folder, GIVEN, patch)
    return folder, table, trials


def study_of(folder, optuna):
    (name,) = optuna.get_all_study_names(f"sqlite:///{folder}/study.db")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")


def test_the_study_has_every_setting_and_its_score(whole, optuna):
    folder, _, trials = whole
    study, chosen = study_of(folder, optuna), store.read_chosen(folder)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 6
    for setting, c in chosen.items():
        scores = [t["score"] for t in trials if (t["setting"], t["part"]) == (setting, "selection")]
        trial = study.trials[c.trial]
        assert trial.value == pytest.approx(np.mean(scores)), "the interquartile mean of two seeds is their mean"
        assert trial.params == c.values
        assert {np.float32(c.values["hyperparams.learning_rate"])} == {
            np.float32(t["learning_rate"]) for t in trials if t["setting"] == setting
        }
    best = max(chosen, key=lambda setting: study.trials[chosen[setting].trial].value)
    assert {t["setting"] for t in trials if t["part"] == "test"} == {best}


def test_a_finished_folder_reads_back_with_the_values_that_were_chosen(whole):
    folder, _, trials = whole
    sweep, _ = store.read_sweep(folder)
    for trial in trials:
        assert sweep.run(trial["setting"]).hyperparams.learning_rate == pytest.approx(trial["learning_rate"])
        assert sweep.labels[trial["setting"]] == trial["label"]
    with pytest.raises(pp.ConfigError, match="--resume"):
        store.create_folder(folder, store.read_plan(folder)[0], {})


@pytest.mark.parametrize("instant", [1, 5, 8, 14])
def test_after_an_interruption_the_table_is_the_uninterrupted_one(whole, tmp_path, monkeypatch, instant):
    """The instants are in the first and in later batches; the third kill happens between a choice and its record."""
    die_at(instant, monkeypatch)
    if instant == 8:
        monkeypatch.setattr(store, "write_chosen", lambda folder, chosen: 1 / (len(chosen) < 4))
    with pytest.raises((Killed, ZeroDivisionError)):
        run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    monkeypatch.undo()
    run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    assert (tmp_path / "killed" / "table.csv").read_text() == (whole[0] / "table.csv").read_text()


def test_two_sweeps_share_a_study_and_choose_different_settings(tmp_path, monkeypatch, optuna):
    url = f"sqlite:///{tmp_path}/shared.db"
    given = GIVEN | {"storage": url, "study": "ours", "num_settings": 2, "test_seeds": 0}
    for name in ("a", "b"):
        run_sweep(tmp_path / name, given, monkeypatch, identity=name)
    study = optuna.load_study(study_name="ours", storage=url)
    assert [t.user_attrs["purejaxppo sweep"] for t in study.trials] == ["a", "a", "b", "b"]
    assert len({t.params["hyperparams.learning_rate"] for t in study.trials}) == 4
    assert not (tmp_path / "a" / "study.db").exists()


def test_settings_that_fail_are_told_as_failed_and_every_structure_has_a_study(tmp_path, monkeypatch, optuna):
    given = GIVEN | {"axes": {"learning_rate": [1e25]}, "structure": {"num_epochs": [1, 2]}, "num_settings": 2}
    run_sweep(tmp_path / "failing", given | {"test_seeds": 0}, monkeypatch)
    url = f"sqlite:///{tmp_path}/failing/study.db"
    names = optuna.get_all_study_names(url)
    assert len(names) == 2
    for name in names:
        assert [t.state.name for t in optuna.load_study(study_name=name, storage=url).trials] == ["FAIL"] * 2


def test_a_storage_that_cannot_be_reached_is_one_problem_without_the_password(tmp_path, monkeypatch, optuna):
    missing = f"sqlite:///{tmp_path}/none/study.db"
    args = ("sweep", "CartPole-v1", "--method", "optuna", "--learning-rate", "1e-4:1e-1:log", "--out", tmp_path / "out")
    assert problems_of(*args, "--storage", missing) == {("storage", "file")}
    assert problems_of(*args, "--storage", "no url") == {("storage", "file")}
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("SECRET", "swordfish")
    with pytest.raises(pp.ConfigError) as caught:
        open_storage("sqlite://me:${SECRET}@host/none", tmp_path)
    assert "swordfish" not in str(caught.value)
    assert hide_password("mysql://me:swordfish@host/db") == "mysql://me:***@host/db"


def test_a_storage_that_is_lost_leaves_what_is_finished(tmp_path, monkeypatch, optuna):
    tell = optuna_study.Studies.tell

    def lost(self, setting, chosen, score):
        (tmp_path / "lost" / "study.db").write_bytes(b"nothing" * 1000)
        tell(self, setting, chosen, score)

    monkeypatch.setattr(optuna_study.Studies, "tell", lost)
    with pytest.raises(UsageError, match="--resume"):
        run_sweep(tmp_path / "lost", GIVEN, monkeypatch)
    assert len(store.piece_names(tmp_path / "lost")) == 1


def test_without_optuna_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"purejaxppo\[optuna\]"):
        optuna_study.check_storage("")


@pytest.mark.parametrize(
    ("given", "key", "kind"),
    [
        ({"method": "random", "batch": 4}, "batch", "conflict"),
        ({"method": "random", "storage": "sqlite:///a.db"}, "storage", "conflict"),
        ({"method": "optuna", "share": 0.5}, "share", "conflict"),
        ({"method": "optuna", "halvings": 1}, "halvings", "conflict"),
        ({"method": "optuna", "batch": 0}, "batch", "range"),
        ({"method": "optuna", "study": 3}, "study", "type"),
        ({"method": "optuna", "axes": {"gamma": {"low": 0.5, "high": 1.5}}}, "hyperparams.gamma", "range"),
        ({"method": "optuna", "axes": {}}, "axes", "missing"),
    ],
)
def test_one_mistake_is_one_problem(given, key, kind):
    problems = parse_sweep({"axes": RATE, **given}, {"env": "CartPole-v1"})[1]
    assert [(problem.key, problem.kind) for problem in problems] == [(key, kind)]
