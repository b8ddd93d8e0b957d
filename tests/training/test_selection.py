"""Which policies are evaluated during training, which one is the best, and how a resumed run gets it back."""

import math

import fakes
import jax
import jax.numpy as jnp
import pytest
from crashes import Crash, crash_after
from readable import readable

from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Config, Hyperparams, Run
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.tracking.metrics_file import metrics_file
from purejaxppo.training.checkpoint_folder import checkpoint_path, save_in_run
from purejaxppo.training.errors import OutOfMemoryError
from purejaxppo.training.intervals import Interval
from purejaxppo.training.policy_file import load_policy
from purejaxppo.training.recorder import Position, Recorder
from purejaxppo.training.resume import open_run
from purejaxppo.training.run_folder import BEST_FILE
from purejaxppo.training.selection import Evaluated, Standing, read_standing, restore_best, save_best, with_evaluations

CONFIG = Config(num_envs=2, num_steps=4, num_minibatches=1, total_timesteps=8 * 7)  # 7 updates
RUN = Run(config=CONFIG, evaluate_every=3)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 2.0, 3.0], 3),
        ([3.0, 2.0, 3.0], 1),
        ([-2.0, -1.0, -5.0], 2),
        ([math.nan, -1.0, math.nan], 2),
        ([math.nan, math.inf, -math.inf], 0),
    ],
)
def test_the_first_of_the_highest_finite_scores_is_the_best(scores, best):
    standing = Standing()
    for i, score in enumerate(scores, 1):
        standing = standing.after(i, score)
    assert (standing.evaluated, standing.best) == (3, best)
    assert standing.score == (scores[best - 1] if best else 0.0)


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (9, [7])])
def test_multiples_of_the_interval_and_the_end_are_evaluated(every, expected):
    run = Run(config=CONFIG, evaluate_every=every)
    assert [i for i in range(8) if Standing().is_due(run, i)] == expected
    assert not any(Standing(evaluated=i).is_due(run, i) for i in range(8))


@pytest.mark.parametrize(
    "given",
    [
        3,
        {"evaluated": -1},
        {"best": True},
        {"num_bytes": 2**63},
        {"score": "high"},
        {"score": math.inf},
        {"evaluated": 1.5},
        {"other": 1},
    ],
    ids=readable,
)
def test_what_is_no_standing_is_refused(given):
    assert read_standing({"evaluation": given}) is None


def test_a_standing_survives_its_manifest():
    standing = Standing(6, 3, 1.25, 99)
    assert read_standing({"evaluation": standing._asdict()}) == standing
    assert read_standing({}) == Standing()


def states():
    """Return an algorithm and its states after 0 to 7 updates."""
    algo = fakes.fake_algorithm(CONFIG)
    found = [algo.init(jax.random.key(0), Hyperparams())]
    update = jax.jit(algo.update)
    for _ in range(7):
        found.append(update(found[-1], Hyperparams())[0])
    return algo, found


def test_evaluations_follow_their_chunks_and_failures_are_reported():
    algo, at = states()
    metrics = jax.vmap(lambda _: algo.update(at[0], Hyperparams())[1])(jnp.zeros(2))
    seen = []

    def evaluate(policy, num_updates):
        seen.append((num_updates, float(policy.params[0])))
        if num_updates == 6:
            raise UsageError("no action is allowed")
        return {"mean": 1.0}

    run = Run(config=CONFIG, evaluate_every=2)
    items = list(with_evaluations(iter([(at[4], metrics), (at[6], metrics)]), run, at[2], 2, Standing(), evaluate))
    assert seen == [(2, 2.0), (4, 4.0), (6, 6.0)]  # a stop prevented the first one
    assert [isinstance(item, Evaluated) for item in items] == [True, False, True, False, True]
    assert [item.problem for item in items if isinstance(item, Evaluated)] == ["", "", "no action is allowed"]
    items = with_evaluations(iter([]), run, at[2], 2, Standing(evaluated=2), evaluate)
    assert list(items) == []


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OutOfMemoryError("an evaluation needs 8 GB\nbuffers"), "an evaluation needs 8 GB\nbuffers"),
        (RuntimeError("INTERNAL: the callback failed\nTraceback"), "INTERNAL: the callback failed"),
    ],
)
def test_a_fault_of_the_device_ends_an_evaluation_and_not_the_run(error, problem):
    def evaluate(policy, num_updates):
        raise error

    state = fakes.FakeState(jnp.zeros(3), (), jnp.int32(2), jax.random.key(0))
    run = Run(config=CONFIG, evaluate_every=2)
    (found,) = with_evaluations(iter([]), run, state, 2, Standing(), evaluate)
    assert (found.figures, found.problem) == ({}, problem)


@pytest.mark.parametrize("lost", ["missing", "another", "damaged", ""])
def test_the_best_policy_is_written_again_out_of_its_checkpoint(tmp_path, lost):
    algo, at = states()
    save_in_run(tmp_path, at[3], Hyperparams(), algo, {})
    standing = Standing(6, 3, 2.0)
    if lost:
        save_best(tmp_path, at[5], RUN, algo, Standing(5, 5, 2.0))
    if lost == "missing":
        (tmp_path / BEST_FILE).unlink()
    if lost == "damaged":
        save_best(tmp_path, at[5], RUN, algo, standing)
        (tmp_path / BEST_FILE).write_bytes((tmp_path / BEST_FILE).read_bytes()[:-1])
    if not lost:
        save_best(tmp_path, at[3], RUN, algo, standing)
    assert restore_best(tmp_path, algo, RUN, standing, pytest.fail) == standing
    assert load_policy(tmp_path / BEST_FILE, algo).params.tolist() == [3.0] * 3


def test_a_best_policy_that_cannot_be_written_is_not_lost(tmp_path, monkeypatch):
    algo, at = states()
    save_in_run(tmp_path, at[3], Hyperparams(), algo, {})
    standing, said = Standing(6, 3, 2.0), []

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert restore_best(tmp_path, algo, RUN, standing, said.append) == standing
    assert len(said) == 1
    for part in ("that of update 3", str(tmp_path / BEST_FILE), "No space left on device"):
        assert part in said[0]
    assert restore_best(tmp_path, algo, RUN, standing, pytest.fail) == standing
    assert load_policy(tmp_path / BEST_FILE, algo).params.tolist() == [3.0] * 3


def test_a_crash_after_any_file_operation_loses_no_best_policy(tmp_path, monkeypatch):
    """Of the saves after an evaluation: the best policy is the one before or the new one, as the checkpoint says."""
    algo, at = states()
    seen, count, finished = [], 0, False
    while not finished:
        folder = tmp_path / str(count)
        folder.mkdir()
        with metrics_file(folder / "metrics.csv") as csv, metrics_file(folder / "evaluations.csv") as evaluations:
            details = {"overrides": []}
            recorder = Recorder(folder, RUN, algo, csv, Interval(updates=9), print, details, evaluations=evaluations)
            recorder.add_evaluation(Evaluated(3, at[3], {"mean": 1.0}), Position(3, 1.0))
            with monkeypatch.context() as patch:
                crash_after(patch, count)
                try:
                    recorder.add_evaluation(Evaluated(6, at[6], {"mean": 2.0}), Position(6, 2.0))
                    finished = True
                except Crash:
                    pass
        standing = open_run(folder).standing
        assert restore_best(folder, algo, RUN, standing, pytest.fail) == standing
        assert load_policy(folder / BEST_FILE, algo).params.tolist() == [float(standing.best)] * 3
        assert (
            read_csv(folder / "evaluations.csv")["num_updates"].tolist()[: standing.best // 3]
            == [3, 6][: standing.best // 3]
        )
        seen.append(standing.best)
        count += 1
    assert seen == sorted(seen)
    assert set(seen) == {3, 6}


def test_without_its_checkpoint_the_selection_starts_again(tmp_path):
    algo, at = states()
    folder = save_in_run(tmp_path, at[3], Hyperparams(), algo, {})
    (folder / "manifest.json").write_text("{}")
    assert restore_best(tmp_path, algo, RUN, Standing(6, 3, 2.0, 50), pytest.fail) == Standing(6, 0, 0.0, 50)
    assert restore_best(tmp_path, algo, RUN, Standing(6, 4, 2.0, 50), pytest.fail).best == 0
    assert not checkpoint_path(tmp_path, 4).exists()
