"""Optuna chooses batches of settings; a sweep that goes on after a kill chooses what it would have chosen."""

import numpy as np
import pytest
from tiny_sweeps import BASE, RATE, SEARCH, Killed, die_at, run_sweep

import purejaxppo as pp
from purejaxppo.sweeps import optuna_study, store
from purejaxppo.sweeps.spec import parse_sweep

GIVEN = SEARCH | {"axes": SEARCH["axes"] | {"learning_rate": RATE["learning_rate"] | {"high": 0.03}}}  # no run diverges


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


@pytest.fixture(scope="module", autouse=True)
def _scores_matter_soon():
    """Draw the settings of the first batch at random; those of later batches follow from scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna_study, "RANDOM_SETTINGS", 2)
        yield


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


@pytest.mark.parametrize("random_settings", [2, 10])
def test_the_scores_of_a_batch_decide_the_next_one(optuna, tmp_path, monkeypatch, random_settings):
    """Beyond the settings that are drawn at random, better scores of large rates lead to larger rates."""
    monkeypatch.setattr(optuna_study, "RANDOM_SETTINGS", random_settings)
    sweep, problems = parse_sweep(GIVEN | {"axes": RATE, "num_settings": 16, "batch": 8}, BASE)
    assert not problems
    rate, means = "hyperparams.learning_rate", []
    for sign in (1.0, -1.0):
        studies = optuna_study.Studies(sweep, tmp_path, f"sign {sign}")
        first = studies.ask(0, range(8))
        for setting, c in first.items():
            studies.tell(setting, c, sign * np.log(c.values[rate]))
        means.append(np.mean([np.log(c.values[rate]) for c in studies.ask(1, range(8, 16)).values()]))
    if random_settings > 8:
        assert means[0] == means[1]
    else:
        assert means[0] > means[1] + 1.0


@pytest.mark.parametrize("instant", [1, 5, 8, 14])
def test_after_an_interruption_the_table_is_the_uninterrupted_one(whole, tmp_path, monkeypatch, instant):
    """The instants are in the first and in later batches; the third kill happens between a choice and its record."""
    die_at(instant, monkeypatch)
    if instant == 8:
        write = store.write_chosen

        def die_in_the_second_batch(folder, chosen):
            if len(chosen) == 4:
                raise Killed
            write(folder, chosen)

        monkeypatch.setattr(store, "write_chosen", die_in_the_second_batch)
    with pytest.raises(Killed):
        run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    monkeypatch.undo()
    run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    assert (tmp_path / "killed" / "table.csv").read_text() == (whole[0] / "table.csv").read_text()


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
