"""A study in a database is told every score; what goes wrong with it is one message, without the password."""

import sys

import pytest
from command_line import problems_of
from tiny_sweeps import SEARCH as GIVEN
from tiny_sweeps import run_sweep

import purejaxppo as pp
from purejaxppo.config.errors import UsageError
from purejaxppo.sweeps import optuna_study, store
from purejaxppo.sweeps.optuna_study import hide_password, open_storage, shown_study


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


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
    ("storage", "study", "shown"),
    [
        ("", "", "study.db"),
        ("", "ours", "study.db, study ours"),
        ("mysql://me:swordfish@host/db", "ours", "mysql://me:***@host/db, study ours"),
    ],
)
def test_the_report_shows_where_a_study_is_without_the_password(storage, study, shown):
    assert shown_study({"storage": storage, "study": study}) == shown
