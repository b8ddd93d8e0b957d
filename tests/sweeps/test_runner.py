"""A trial has the same result in every piece, beside every other trial, and after every interruption."""

import json
import math
import random
import signal
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import ROOT, start
from descent import descent
from small_sweeps import BASE, GIVEN, build_once, run, silent
from tiny_sweeps import Killed, die_at

import purejaxppo as pp
from purejaxppo.config.errors import UsageError
from purejaxppo.config.toml import load_toml
from purejaxppo.sweeps import session, store
from purejaxppo.sweeps.execution import Execution
from purejaxppo.sweeps.runner import Group, Runner, spans_of
from purejaxppo.sweeps.session import rerun_trial, resume_sweep
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.studies import read_study
from purejaxppo.sweeps.table import read_table, trial_rows
from purejaxppo.training.policy_file import load_policy
from purejaxppo.training.results import evaluate_policy


@pytest.fixture(autouse=True, scope="module")
def _compile_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "build", build_once)
        yield


pytestmark = pytest.mark.usefixtures("keys_move")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results folder of an uninterrupted sweep, two runs side by side on two devices."""
    return run(tmp_path_factory.mktemp("sweep") / "whole", 2)


def table(folder, name="table"):
    return (folder / f"{name}.csv").read_text()


def assert_same_rows(a, b, rtol):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key, value in x.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, y[key], rtol=rtol, atol=1e-6, err_msg=key)
            else:
                assert value == y[key]


def test_the_table_has_a_row_per_trial_and_point(whole):
    rows, trials = read_table(whole / "table.csv"), read_table(whole / "trials.csv")
    assert len(trials) == 3 * 2 + 2
    assert len(rows) == len(trials) * 4
    assert [row["timesteps"] for row in rows[:4]] == [128, 256, 384, 512]
    assert {row["seed"] for row in trials if row["part"] == "selection"} == {0, 1}
    assert {row["seed"] for row in trials if row["part"] == "test"} == {2, 3}
    assert [trial["learning_rate"] for trial in trials[:6:2]] == pytest.approx([1e-3, 1e25, 1e-2])
    assert {trial["gamma"] for trial in trials} == {0.99000001}


def test_the_size_of_the_pieces_and_the_other_trials_change_nothing(whole, tmp_path):
    """Three lanes instead of two, and a sweep without the diverging setting."""
    wider = run(tmp_path / "wider", 3)
    assert_same_rows(read_table(whole / "table.csv"), read_table(wider / "table.csv"), 1e-5)
    without = run(tmp_path / "without", 3, GIVEN | {"axes": {"learning_rate": [1e-3, 1e-2]}, "test_seeds": 0})
    kept = [row for row in read_table(whole / "table.csv") if row["setting"] != 1 and row["part"] == "selection"]
    for a, b in zip(kept, read_table(without / "table.csv"), strict=True):
        assert (a["learning_rate"], a["seed"]) == (b["learning_rate"], b["seed"])
        np.testing.assert_allclose(
            [a[key] for key in ("return", "kl", "value_loss")],
            [b[key] for key in ("return", "kl", "value_loss")],
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_trial_is_the_run_of_train_and_its_evaluation(whole):
    """Its settings are in the folder, so that `purejaxppo train settings/2.toml --seed 1` is the same run."""
    settings = load_toml(whole / "settings" / "2.toml")
    algo = build_once(settings)
    state, metrics = pp.train(algo, 1, settings.hyperparams)
    rows = [r for r in read_table(whole / "table.csv") if (r["setting"], r["seed"], r["part"]) == (2, 1, "selection")]
    np.testing.assert_allclose([row["value_loss"] for row in rows], metrics.value_loss.reshape(4, 2).mean(1), rtol=1e-4)
    episodes, means = metrics.num_episodes.reshape(4, 2), metrics.episode_return_mean.reshape(4, 2)
    np.testing.assert_allclose([r["return"] for r in rows], (episodes * means).sum(1) / episodes.sum(1), rtol=1e-5)
    (trial,) = [
        r for r in read_table(whole / "trials.csv") if (r["setting"], r["seed"], r["part"]) == (2, 1, "selection")
    ]
    assert trial["score"] == pytest.approx(evaluate_policy(algo, state, 1, 2, True)["mean"], rel=1e-5)


def test_a_failed_trial_is_reported_and_never_wins(whole):
    trials = read_table(whole / "trials.csv")
    for trial in trials:
        assert (trial["status"] == "failed") == (trial["setting"] == 1)
        assert math.isnan(trial["score"]) == (trial["setting"] == 1)
    assert all(trial["setting"] != 1 for trial in trials if trial["part"] == "test")


@pytest.mark.slow
def test_policies_are_evaluated_at_other_values_of_an_environment_parameter(tmp_path):
    """No pole falls within 5 steps, so that every policy scores the limit of steps."""
    given = GIVEN | {"test_seeds": 0, "structure": {"env_params": {"max_steps_in_episode": [4, 500]}}}
    given |= {"generalization": {"env_params": {"max_steps_in_episode": [3, 5]}}}
    rows = read_table(run(tmp_path / "general", 2, given) / "generalization.csv")
    other = [row for row in rows if row["value"] != row["trained"]]
    assert [(row["trained"], row["value"], row["seed"], row["score"]) for row in other] == [
        (trained, value, seed, value) for trained in (4, 500) for value in (3, 5) for seed in (0, 1)
    ]
    assert {row["parameter"] for row in rows} == {"max_steps_in_episode"}
    trials = {(row["setting"], row["seed"]): row["score"] for row in read_table(tmp_path / "general" / "trials.csv")}
    same = [row for row in rows if row["value"] == row["trained"]]
    assert [row["score"] for row in same] == [trials[row["setting"], row["seed"]] for row in same]
    (first, second) = read_study([tmp_path / "general"]).generalization
    np.testing.assert_array_equal(first.scores[:, [0, 2]], [[3, 5], [3, 5]])
    assert second.scores.shape == (2, 3)
    assert (first.trained, second.trained) == (4, 500)
    assert (tmp_path / "general" / "table.csv").is_file()


def test_policies_of_the_best_trials_are_kept_and_states_removed(whole):
    trials = read_table(whole / "trials.csv")
    best = sorted(trials, key=lambda t: -np.nan_to_num(t["score"], nan=-np.inf))[:2]
    files = sorted((whole / "policies").iterdir())
    assert [int(file.stem) for file in files] == sorted(int(trial["trial"]) for trial in best)
    policy = load_policy(files[0], build_once(load_toml(whole / "settings" / f"{best[0]['setting']:.0f}.toml")))
    trial = trials[int(files[0].stem)]
    algo = build_once(load_toml(whole / "settings" / f"{trial['setting']:.0f}.toml"))
    assert evaluate_policy(algo, policy, int(trial["seed"]), 2, True)["mean"] == pytest.approx(trial["score"], rel=1e-5)
    assert not any(store.read_piece(whole, name).states for name in store.piece_names(whole))


def test_one_trial_alone_has_the_numbers_of_the_table(whole):
    said = []
    assert rerun_trial(whole, 5, said.append)
    assert len(said) == 5
    with pytest.raises(UsageError, match="0 to 7"):
        rerun_trial(whole, 8, silent)


@pytest.mark.parametrize("instant", [1, 4, 5, 9])
def test_after_an_interruption_the_table_is_the_uninterrupted_one(whole, tmp_path, monkeypatch, instant):
    """Every write is an instant: states of the running piece, and finished pieces; what is half written is lost."""
    folder = tmp_path / "killed"
    die_at(instant, monkeypatch)
    with pytest.raises(Killed):
        run(folder, 2, save_seconds=0.0)
    monkeypatch.undo()
    resume_sweep(folder, silent)
    assert table(folder) == table(whole)
    assert table(folder, "trials") == table(whole, "trials")


def test_a_damaged_piece_is_made_again(whole, tmp_path):
    folder = run(tmp_path / "damaged", 2)
    file = sorted((folder / "pieces").iterdir())[1]
    file.write_bytes(file.read_bytes()[:-9])
    resume_sweep(folder, silent)
    assert table(folder) == table(whole)


def test_halving_stops_the_worse_half_and_the_rest_goes_on_exactly(tmp_path):
    given = GIVEN | {"halvings": 2, "test_seeds": 0, "axes": {"learning_rate": [1e-3, 1e-2, 1e25, 3e-3]}}
    halved = read_table(run(tmp_path / "halved", 2, given) / "table.csv")
    full = read_table(run(tmp_path / "full", 2, given | {"halvings": 0}) / "table.csv")
    lengths = {s: sum(row["setting"] == s and row["seed"] == 0 for row in halved) for s in range(4)}
    assert sorted(lengths.values()) == [1, 1, 2, 4]
    assert lengths[2] == 1, "the diverging setting counts as the worst"
    for row in halved:
        (same,) = [r for r in full if all(r[key] == row[key] for key in ("setting", "seed", "point"))]
        np.testing.assert_allclose([row["return"], row["kl"]], [same["return"], same["kl"]], rtol=1e-5)


def test_stages_of_halving():
    assert [(span.first, span.last, span.is_last) for span in spans_of(2, 20)] == [
        (0, 5, False),
        (5, 10, False),
        (10, 20, True),
    ]
    assert [(span.first, span.last, span.is_last) for span in spans_of(0, 7)] == [(0, 7, True)]


def test_the_evaluation_is_the_score_even_if_no_training_episode_finished():
    sweep = parse_sweep(GIVEN, BASE)[0]
    nothing = np.full((1, 4), np.nan)
    piece = store.Piece(((0, 0),), {"return": nothing}, np.zeros(1, int), {}, np.array([7.0]))
    runner = SimpleNamespace(sweep=sweep)
    assert Runner._score(runner, piece, 0)[0] == 7.0
    assert math.isnan(Runner._score(runner, piece._replace(failed=np.ones(1, int)), 0)[0])
    later = piece._replace(columns={"return": np.array([[1.0, math.nan, 3.0, math.nan]])}, score=np.array([math.nan]))
    assert Runner._score(runner, later, 0) == (3.0, 2.0), "before the evaluation: the last known return"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["halving", "population"])
def test_a_killed_process_goes_on_to_the_same_table(tmp_path, method):
    """SIGKILL at 20 random instants."""
    file = tmp_path / "sweep.toml"
    axis = "[1e-3, 2e-3, 4e-3, 8e-3]" if method == "halving" else "{ low = 1e-3, high = 1e-2 }"
    options = "halvings = 1" if method == "halving" else 'method = "population"\nnum_settings = 4'
    file.write_text(
        f'config = "cartpole"\nseeds = 3\ntest_seeds = 2\npoints = 4\nepisodes = 2\n{options}\n'
        "[base]\nnetwork.hidden_sizes = [8]\nconfig.num_steps = 32\nconfig.total_timesteps = 32_000\n"
        f"[axes]\nlearning_rate = {axis}\n"
    )
    args = ["sweep", str(file), "--lanes", "2", "--out"]
    environment = {"XLA_FLAGS": "", "PUREJAXPPO_COMPILE_CACHE": str(tmp_path / "cache")}
    script = (str(ROOT / "tests" / "helpers" / "forks.py"),)
    nursery = start([], environment, script=script, stdin=subprocess.PIPE, cwd=ROOT)

    def run_for(seconds, *words):
        nursery.stdin.write(json.dumps([seconds, *map(str, words)]) + "\n")
        nursery.stdin.flush()
        code, spent = nursery.stdout.readline().split()
        return int(code), float(spent)

    for name in ("compiled", "whole"):  # the second one takes the programs from the cache
        code, length = run_for(None, *args, tmp_path / name)
        assert code == 0
    _, startup = run_for(None, "sweep", "--resume", tmp_path / "whole")
    rng, killed, folder = random.Random(0), 0, 0
    while killed < 20 or (tmp_path / f"{folder}").exists():
        place = tmp_path / f"{folder}"
        words = ["sweep", "--resume", place] if (place / "sweep.json").exists() else [*args, place]
        instant = rng.uniform(0.5 * startup, length) if killed < 20 else None
        code, spent = run_for(instant, *words)
        assert code in (0, -signal.SIGKILL)
        if code:
            killed += 1
            continue
        length = max(min(length, spent), 1.1 * startup)  # the first runs may have been slower
        assert table(place) == table(tmp_path / "whole")
        assert table(place, "trials") == table(tmp_path / "whole", "trials")
        folder += 1
    nursery.communicate()


def test_halving_beats_random_search_at_equal_environment_steps(tmp_path, monkeypatch):
    """32 settings with two halvings take as many steps as 16 without; the problem is that of test_population.

    The score is the return of the last point: the evaluation of a policy means nothing here.
    """
    monkeypatch.setattr(
        "purejaxppo.sweeps.engine.Engine.play", lambda self, states, seeds, *_: np.full((self.width, 1), 0.0)
    )
    algo = descent()
    wins, steps = [], []
    for seed in range(8):
        best = []
        for count, halvings in ((32, 2), (16, 0)):
            given = {"method": "random", "num_settings": count, "halvings": halvings, "seeds": 1, "points": 8}
            given |= {"sampling_seed": 50 * seed + count, "first_seed": seed, "test_seeds": 0, "keep": 0}
            given["axes"] = {"learning_rate": {"low": 1e-4, "high": 1.0, "scale": "log"}}
            sweep, problems = parse_sweep(given, BASE | {"config": BASE["config"] | {"total_timesteps": 64 * 80}})
            assert not problems
            group = Group(0, tuple(range(count)), sweep.run(0), algo)
            folder = tmp_path / f"{seed}-{count}"
            store.create_folder(folder, sweep, {})
            runner = Runner(folder, sweep, [group], [Execution(8, 1, 1)], silent)
            runner.run()
            trials = trial_rows(sweep, runner.pieces())[0]
            last = [row["return"] for row in trials if row["point"] == 7]
            best.append(np.nanmax(last))
            steps.append(runner.steps)
        wins.append(best[0] - best[1])
    assert set(steps) == {steps[0]}
    assert np.mean(np.array(wins) > 0) > 0.5
    assert np.mean(wins) > 0
