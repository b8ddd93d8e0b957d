"""The recorder writes what a run produces; failures are counted and never end the run."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from states import OddAlgorithm, bits, odd_state

import purejaxppo as pp
from purejaxppo.config.schema import Config, Run
from purejaxppo.functional.running_stats import init_moments
from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.tracking.metrics_file import MetricsFile
from purejaxppo.training import recorder as module
from purejaxppo.training.checkpoint_folder import list_checkpoints
from purejaxppo.training.intervals import DEFAULT_INTERVAL, Interval
from purejaxppo.training.recorder import Position, Recorder
from purejaxppo.training.resume import open_run
from purejaxppo.training.selection import Evaluated, Standing

RUN = Run(config=Config(num_envs=2))


class State(type(odd_state(jax.random.key(0)))):
    """A state with the fields that a policy file stores."""

    obs_moments = init_moments(jnp.zeros(2))


def state_at(num_updates):
    return State(*odd_state(jax.random.key(0))._replace(num_updates=jnp.int32(num_updates)))


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def made(tmp_path, clock):
    said = []
    files = []

    def make(interval, **kwargs):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        files.append(MetricsFile(folder / "metrics.csv"))
        details = {"overrides": []}
        algo = OddAlgorithm(RUN.config)
        return Recorder(folder, RUN, algo, files[-1], interval, said.append, details, **kwargs), folder, said

    yield make
    for file in files:
        file.close()


def kept(folder):
    return [int(entry.name) for entry in list_checkpoints(folder)]


def test_an_interval_in_updates_saves_at_its_multiples(made):
    recorder, folder, _ = made(Interval(updates=4), keep=9)
    assert recorder.updates_until_due(0) == 4
    assert recorder.updates_until_due(6) == 2
    for num_updates in range(1, 10):
        recorder.save_if_due(state_at(num_updates), Position(num_updates, 1.0))
    assert kept(folder) == [8, 4]


def test_an_interval_in_seconds_saves_when_they_have_passed(made, clock):
    recorder, folder, _ = made(Interval(seconds=60))
    assert recorder.updates_until_due(5) is None
    for num_updates, now in ((1, 30.0), (2, 61.0), (3, 100.0), (4, 122.0)):
        clock.now = now
        recorder.save_if_due(state_at(num_updates), Position(num_updates, now))
    assert kept(folder) == [4, 2]


def test_expensive_saves_take_at_most_a_hundredth_of_the_time(made, clock, monkeypatch):
    def slow(*_):
        clock.now += 5.0

    monkeypatch.setattr(module, "save_in_run", slow)
    recorder, _, _ = made(DEFAULT_INTERVAL)
    clock.now = 61.0
    recorder.save_if_due(state_at(1), Position(1, 61.0))
    assert recorder.saved == 1
    clock.now += 499.0
    recorder.save_if_due(state_at(2), Position(2, 0.0))
    assert recorder.saved == 1
    clock.now += 2.0
    recorder.save_if_due(state_at(3), Position(3, 0.0))
    assert recorder.saved == 3


def test_interval_off_saves_only_on_request(made, clock):
    recorder, folder, _ = made(Interval())
    clock.now = 1e12
    recorder.save_if_due(state_at(10**6), Position(10**6, 0.0))
    assert kept(folder) == []
    assert recorder.save(state_at(3), Position(3, 0.0))
    assert recorder.save(state_at(3), Position(3, 0.0))
    assert kept(folder) == [3]


def test_a_checkpoint_records_the_length_of_the_metrics_file(made):
    recorder, folder, said = made(Interval())
    recorder.write([{"a": 1.0}, {"a": 2.0}])
    assert recorder.save(state_at(2), Position(2, 12.5))
    recorder.write([{"a": 3.0}])
    saved = open_run(folder)
    assert (saved.metrics_bytes, saved.seconds, saved.run, saved.overrides) == (len("a\n1\n2\n"), 12.5, RUN, ())
    assert read_csv(folder / "metrics.csv")["a"].tolist() == [1.0, 2.0, 3.0]
    assert bits(pp.restore(folder, OddAlgorithm(RUN.config)).state) == bits(
        odd_state(jax.random.key(0))._replace(num_updates=jnp.int32(2))
    )
    assert (folder / "policy.safetensors").exists()
    assert said == []


def full(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_draws_one_warning_a_file_and_keeps_the_last_checkpoint(made, monkeypatch):
    recorder, folder, said = made(Interval())
    assert recorder.save(state_at(1), Position(1, 0.0))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        for num_updates in (2, 3):
            assert not recorder.save(state_at(num_updates), Position(num_updates, 0.0))
    assert recorder.failures == 4  # two checkpoints and two policies
    assert len(said) == 2
    for part in ("checkpoint after update 2", str(folder), "No space left", "that of update 1", "training continues"):
        assert part in said[0]
    assert kept(folder) == [1]
    assert recorder.save(state_at(4), Position(4, 0.0))
    assert kept(folder) == [4, 1]


def test_rows_that_cannot_be_written_are_written_later(made, monkeypatch):
    recorder, folder, said = made(Interval())
    recorder.write([{"a": 1.0}])
    file = recorder._csv._file
    monkeypatch.setattr(recorder._csv, "_file", FailingFile())
    recorder.write([{"a": 2.0}])
    recorder.write([{"a": 3.0}])
    monkeypatch.setattr(recorder._csv, "_file", file)
    assert (recorder.failures, len(said)) == (2, 1)
    recorder.write([{"a": 4.0}])
    assert read_csv(folder / "metrics.csv")["a"].tolist() == [1.0, 2.0, 3.0, 4.0]


class FailingFile:
    def seek(self, _):
        full()


def test_a_checkpoint_before_an_evaluation_is_written_again_and_is_not_forgotten(made, monkeypatch):
    """It has the standing before; until it is written again it is the newest, and the save is not complete."""
    recorder, folder, said = made(Interval(updates=9))
    assert recorder.save(state_at(2), Position(2, 0.0))
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_in_run", full)
        recorder.add_evaluation(Evaluated(2, state_at(2), {}), Position(2, 0.0))
        assert not recorder.save(state_at(2), Position(2, 0.0))
    assert len(said) == 1
    assert "the newest is that of update 2" in said[0]
    assert open_run(folder).standing == Standing()
    assert recorder.save(state_at(2), Position(2, 0.0))
    assert open_run(folder).standing == Standing(evaluated=2)
    assert recorder.saved == 2


def test_the_checkpoint_of_the_best_policy_stays_whatever_others_scored(made):
    """After a selection that began again, an old checkpoint may say more of itself than the best policy has."""
    recorder, folder, _ = made(Interval(updates=1), keep=1)
    for num_updates, mean in ((1, 9.0), (2, 5.0), (3, 4.0)):
        if num_updates == 2:
            recorder.standing = Standing(evaluated=1)  # the best policy was lost
        state, position = state_at(num_updates), Position(num_updates, 0.0)
        recorder.add_evaluation(Evaluated(num_updates, state, {"mean": mean}), position)
        recorder.save_if_due(state, position)
    assert kept(folder) == [3, 2]


def test_a_deleted_folder_draws_a_warning_and_is_not_created_again(made):
    recorder, folder, said = made(Interval())
    shutil.rmtree(folder)
    recorder.write([{"a": 1.0}])
    assert not recorder.save(state_at(1), Position(1, 0.0))
    assert not folder.exists()
    assert "No such file or directory" in said[0]
    assert "no checkpoint exists" in said[0]
