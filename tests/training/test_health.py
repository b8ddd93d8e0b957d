"""The first thing that went wrong is named: the environment before the losses, the losses before the parameters."""

import re

import numpy as np
import pytest

import purejaxppo as pp
from purejaxppo.training.health import Fault, diagnose, faults_of_runs, find_fault

HEALTHY = {
    "policy_loss": 0.1,
    "value_loss": 0.2,
    "entropy": 0.3,
    "total_loss": 0.4,
    "kl": 0.01,
    "masked_states": 0.0,
    "nonfinite_observations": 0.0,
    "nonfinite_rewards": 0.0,
    "nonfinite_parameters": 0.0,
    "first_fault_step": -1.0,
}


def metrics(*changes):
    """Columns [U] of updates that are healthy up to their changes."""
    rows = [HEALTHY | change for change in changes]
    return {name: np.array([row[name] for row in rows], np.float32) for name in HEALTHY}


BAD_LOSS = {"value_loss": np.inf, "total_loss": np.inf}


@pytest.mark.parametrize(
    ("change", "fault", "text"),
    [
        (
            {"nonfinite_rewards": 2, "first_fault_step": 4, **BAD_LOSS, "nonfinite_parameters": 7},
            Fault("reward", 2, 4, 2),
            "Pole returned NaN or Inf in 2 rewards in update 2, first at step 4 of the rollout",
        ),
        (
            {"nonfinite_observations": 1, "first_fault_step": 0, "masked_states": 3, **BAD_LOSS},
            Fault("observation", 2, 0, 1),
            "Pole returned NaN or Inf in 1 observation in update 2, first at step 0",
        ),
        (
            {"masked_states": 3, "first_fault_step": 5},
            Fault("mask", 2, 5, 3),
            "Pole allowed no action in 3 states in update 2, first at step 5 .* its action mask forbade all",
        ),
        (
            BAD_LOSS | {"nonfinite_parameters": 9},
            Fault("loss", 2, -1, 9, (("value loss", np.inf), ("total loss", np.inf))),
            "the value loss became inf, the total loss became inf in update 2, and then 9 parameters NaN or Inf",
        ),
        ({"nonfinite_parameters": 9}, Fault("parameters", 2, -1, 9), "^9 parameters became NaN or Inf in update 2"),
        ({"kl": -np.inf}, Fault("loss", 2, -1, 0, (("KL divergence", -np.inf),)), "KL divergence became -inf"),
    ],
)
def test_the_cause_is_named_and_not_what_follows_from_it(change, fault, text):
    columns = metrics({}, change, {"nonfinite_rewards": 1})
    assert find_fault(columns) == fault
    assert re.search(text, diagnose(columns, "Pole"))


def test_a_healthy_run_has_no_fault():
    assert find_fault(metrics({}, {})) is None
    assert diagnose(metrics({}, {})) is None


def test_updates_before_are_counted():
    assert find_fault(metrics({}, BAD_LOSS), first_update=10).update == 12


def test_own_metrics_are_checked_as_far_as_their_names_are_known():
    assert find_fault({"my_metric": np.array([np.nan])}) is None
    assert find_fault(np.array([np.nan])) is None
    assert find_fault({"total_loss": np.array([0.0, np.nan])}).update == 2


def test_runs_of_a_sweep_fail_one_by_one():
    runs = [[metrics({}, {}), metrics({}, BAD_LOSS)], [metrics({"masked_states": 1}, {}), metrics({}, {})]]
    stacked = {name: np.array([[run[name] for run in row] for row in runs]) for name in HEALTHY}
    np.testing.assert_array_equal(pp.failed_runs(stacked), [[False, True], [True, False]])
    faults = faults_of_runs(stacked)
    assert {index: fault.kind for index, fault in faults.items()} == {(0, 1): "loss", (1, 0): "mask"}
    assert [fault.update for fault in faults.values()] == [2, 1]


def test_faults_of_an_evaluation_name_the_step_of_the_episode():
    assert Fault("mask", step=3, count=1).message() == (
        "the environment allowed no action in 1 state of the evaluation, first at step 3 of an episode: its action "
        "mask forbade all of them. A state without an allowed action must end the episode"
    )
    assert Fault("parameters", count=2).message("Pole") == "2 parameters of the policy are NaN or Inf"
