"""The end of a sweep: states are removed last, and the best policies are evaluated at other values."""

import itertools

import numpy as np
import pytest
import tiny_sweeps
from tiny_sweeps import ALGORITHM, BASE, RATE, Killed, play, run_sweep

from purejaxppo.config.errors import UsageError
from purejaxppo.sweeps import execution, generalization, session, store
from purejaxppo.sweeps.axes import Axis
from purejaxppo.sweeps.engine import Engine
from purejaxppo.sweeps.execution import Execution, choose_execution
from purejaxppo.sweeps.generalization import generalization_rows
from purejaxppo.sweeps.runner import Group
from purejaxppo.sweeps.session import resume_sweep, start_sweep
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.studies import read_study
from purejaxppo.sweeps.table import write_tables

RATES = {"axes": {"learning_rate": [1e-3, 1e-2]}}
LIMIT = Axis("env_params.max_steps_in_episode", (3, 5))

pytestmark = pytest.mark.usefixtures("keys_move")


@pytest.fixture(autouse=True)
def _one_algorithm(monkeypatch):
    monkeypatch.setattr(generalization, "build", lambda run: ALGORITHM)


def silent(_):
    pass


def groups_of(sweep):
    return [Group(0, tuple(range(len(sweep.settings))), sweep.run(0), ALGORITHM)]


def test_a_kill_while_states_are_removed_loses_nothing(tmp_path, monkeypatch):
    sweep, _ = parse_sweep({"seeds": 1, "points": 2, "keep": 2, **RATES}, BASE)
    monkeypatch.setattr(session, "check_sweep", lambda sweep, source: groups_of(sweep))
    monkeypatch.setattr(Engine, "play", play)
    store.create_folder(tmp_path / "a", sweep, {"executions": [Execution(1, 1, 1)._asdict()]})
    drop, calls = store.drop_states, []

    def dying(folder, name):
        calls.append(name)
        if len(calls) == 2:
            raise Killed
        drop(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(store, "drop_states", dying)
        with pytest.raises(Killed):
            resume_sweep(tmp_path / "a", silent)
    names = store.piece_names(tmp_path / "a")
    assert [bool(store.read_piece(tmp_path / "a", name).states) for name in names] == [False, True]
    resume_sweep(tmp_path / "a", silent)
    assert not any(store.read_piece(tmp_path / "a", name).states for name in names)
    assert len(list((tmp_path / "a" / "policies").iterdir())) == 2


def test_a_damaged_piece_is_named_and_no_policy_takes_the_place_of_another(tmp_path, monkeypatch):
    runner, *_ = run_sweep(tmp_path / "a", RATES, monkeypatch, lanes=1)
    file = tmp_path / "a" / "pieces" / "stage0-00-0002.safetensors"  # of the better setting
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UsageError, match=f"{file.name}: damaged; --resume"):
        generalization_rows(runner, LIMIT, silent)


def test_equal_scores_are_decided_as_in_the_ranking(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_sweeps, "play", lambda engine, states, seeds, *_: np.zeros((len(seeds), 1)))
    runner, *_ = run_sweep(tmp_path / "a", RATES, monkeypatch)
    assert runner.ranked([0, 1])["CartPole-v1"] == [1, 0]
    assert {row["setting"] for row in generalization_rows(runner, LIMIT, silent)} == {1}


def test_of_several_populations_of_a_program_the_best_is_evaluated(tmp_path, monkeypatch):
    scores = itertools.count()  # the populations of the second setting are evaluated last

    def rising(engine, states, seeds, *_):
        return np.full((len(seeds), 1), next(scores))

    monkeypatch.setattr(tiny_sweeps, "play", rising)
    given = {"method": "population", "num_settings": 4, "seeds": 4, "points": 2, "axes": RATE}
    given |= {"settings": [{"name": "first", "gamma": 0.9}, {"name": "second", "gamma": 0.99}]}
    runner, *_ = run_sweep(tmp_path / "a", given, monkeypatch)
    rows = generalization_rows(runner, LIMIT, silent)
    assert {row["label"].partition(",")[0] for row in rows} == {"second"}
    assert len({row["setting"] for row in rows}) > 1, "the best runs of the seeds have different starts"
    write_tables(tmp_path / "a", {"generalization": rows})
    (line,) = read_study([tmp_path / "a"]).generalization
    assert line.scores.shape == (4, 2)


def test_a_sweep_without_the_name_of_a_study_has_one_for_itself(tmp_path, monkeypatch):
    """The same sweep in another folder with the same storage chooses the same settings, and learns nothing of it."""
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path}/all.db"
    given = {"method": "optuna", "num_settings": 2, "batch": 2, "axes": RATE, "storage": url}
    for name in ("a", "b"):
        run_sweep(tmp_path / name, given, monkeypatch, identity=name)
    assert optuna.get_all_study_names(url) == ["sweep-a", "sweep-b"]
    first, second = (store.read_chosen(tmp_path / name) for name in ("a", "b"))
    assert [c.values for c in first.values()] == [c.values for c in second.values()]


def test_a_search_in_batches_is_announced_whole_and_writes_no_settings_before_they_are_chosen(tmp_path, monkeypatch):
    given, said, asked = [], [], []
    sweep, _ = parse_sweep({"method": "optuna", "num_settings": 6, "batch": 2, "seeds": 2, "axes": RATE}, BASE)
    monkeypatch.setattr(session, "check_storage", asked.append)
    monkeypatch.setattr(session, "choose_execution", lambda *args: given.append(args) or Execution(4, 1, 1))

    def killed(*_):
        raise Killed

    monkeypatch.setattr(session, "run_method", killed)
    with pytest.raises(Killed):
        start_sweep(sweep, groups_of(sweep), tmp_path / "a", say=said.append)
    _, num_runs, _, _, _, at_once = given[0]
    assert (num_runs, at_once) == (12, 4)
    assert "12 runs" in said[0]
    assert not list((tmp_path / "a" / "settings").iterdir())


def test_a_long_sweep_of_small_batches_is_measured_both_ways(monkeypatch):
    """One update takes 0.1 s: the 4 runs of a batch take 4 s, the 64 runs of the sweep 64 s."""
    engines = []
    monkeypatch.setattr(execution, "forecast", lambda engine: 1000)
    monkeypatch.setattr(execution, "free_memory", lambda: 10**9)
    monkeypatch.setattr(execution.jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(execution, "_seconds", lambda engine: engines.append(engine) or 0.1)
    engine = Engine(ALGORITHM, 1, 1, 1)
    assert choose_execution(engine, 64, 10, say=silent, at_once=4).lanes == 4
    assert [engine.lanes for engine in engines] == [1, 4]
    assert choose_execution(engine, 4, 10, say=silent).lanes == 1
