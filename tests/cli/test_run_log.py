"""A log of a run counts updates up to the first fault, keeps the last good state, and says how the run ended."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest

from purejaxppo.cli import run_log
from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.run_log import RunLog
from purejaxppo.config.schema import Config, Run
from purejaxppo.metrics import Metrics
from purejaxppo.training.recorder import Position

RUN = Run(config=Config(num_envs=4, num_steps=4, num_minibatches=1, total_timesteps=160))  # 10 updates
NOTHING = Position(0, 0.0)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(run_log, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def chunk(*losses):
    """Return the metrics of as many updates, of which only a loss can be a fault."""
    values = dict.fromkeys(Metrics._fields, np.zeros(len(losses))) | {"diagnostics": (), "extra": ()}
    return Metrics(**values | {"total_loss": np.array(losses)})


def state(params):
    return SimpleNamespace(params=params, obs_moments=())


def test_rows_count_on_from_the_position_and_share_the_time_of_their_chunk(clock):
    log = RunLog(RUN, None, Position(3, 10.0))
    clock.now += 4.0
    rows = log.add(state("a"), chunk(0.5, 0.25))
    assert [row["timesteps"] for row in rows] == [64, 80]
    assert [row["wall_time"] for row in rows] == [12.0, 14.0]
    clock.now += 2.0
    (row,) = log.add(state("b"), chunk(0.1))
    assert (row["timesteps"], row["wall_time"]) == (96, 16.0)
    assert log.position == Position(6, 16.0)
    assert log.seconds_first_update == 4.0
    assert log.state.params == "b"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_after_a_fault_the_rows_end_and_the_state_is_that_before_the_chunk(clock, tmp_path, value):
    log = RunLog(RUN, None, NOTHING)
    log.add(state("good"), chunk(0.5, 0.4))
    rows = log.add(state("bad"), chunk(0.3, value, 0.2))
    assert [row["total_loss"] for row in rows][:1] == [0.3]
    assert len(rows) == 2
    outcome = log.outcome([], 10, tmp_path)
    assert (outcome.status, outcome.code, outcome.num_updates) == ("diverged", FAILED, 4)
    assert outcome.policy.params == "good"
    assert f"update 4 of 10 (64 env steps): total_loss became {value}" in outcome.message
    assert outcome.message.endswith("policy.safetensors is the policy after update 2")


def test_a_fault_in_the_first_chunk_leaves_no_policy(clock, tmp_path):
    log = RunLog(RUN, None, NOTHING)
    log.add(state("bad"), chunk(np.nan))
    outcome = log.outcome([], 10, tmp_path)
    assert outcome.policy is None
    assert outcome.message.endswith("\nno policy was kept")


@pytest.mark.parametrize(
    ("done", "received", "last", "status", "code"),
    [
        (10, [], 10, "finished", FINISHED),
        (10, [signal.SIGTERM], 10, "finished", 128 + signal.SIGTERM),
        (5, [], 5, "paused", FINISHED),
        (5, [signal.SIGINT], 5, "paused", 128 + signal.SIGINT),
        (5, [signal.SIGTERM, signal.SIGINT], 10, "interrupted", 128 + signal.SIGTERM),
        (5, [], 10, "interrupted", 128 + signal.SIGINT),  # Ctrl-C as an exception, before a handler is set
    ],
)
def test_how_a_run_ended(clock, tmp_path, done, received, last, status, code):
    log = RunLog(RUN, None, NOTHING)
    log.add(state("a"), chunk(*[0.0] * done))
    outcome = log.outcome(received, last, tmp_path)
    assert (outcome.status, outcome.code, outcome.num_updates) == (status, code, done)
    assert (f"purejaxppo resume {tmp_path}" in outcome.message) == (status != "finished" or bool(received))
    assert ("purejaxppo evaluate" in outcome.message) == (status == "interrupted")


def test_a_run_that_was_interrupted_before_its_first_update_can_only_be_continued(clock, tmp_path):
    outcome = RunLog(RUN, None, NOTHING).outcome([signal.SIGINT], 10, tmp_path)
    assert (outcome.status, outcome.policy) == ("interrupted", None)
    assert "purejaxppo evaluate" not in outcome.message
