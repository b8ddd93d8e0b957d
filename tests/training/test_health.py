"""The first fault is reported: faults of the environment before losses, losses before parameters."""

import re

import numpy as np
import pytest
from readable import readable

import purejaxppo as pp
from purejaxppo.training.health import faults_of_runs, find_fault

HEALTHY = {
    "policy_loss": 0.1,
    "value_loss": 0.2,
    "entropy": 0.3,
    "total_loss": 0.4,
    "kl": 0.01,
    "grad_norm": 1.0,
    "masked_states": 0.0,
    "nonfinite_observations": 0.0,
    "nonfinite_rewards": 0.0,
    "nonfinite_parameters": 0.0,
    "lost_final_observations": 0.0,
    "first_fault_step": -1.0,
}


def metrics(*changes):
    """Return columns [U] of updates that are healthy except for the given changes."""
    rows = [HEALTHY | change for change in changes]
    return {name: np.array([row[name] for row in rows], np.float32) for name in HEALTHY}


BAD_LOSS = {"value_loss": np.inf, "total_loss": np.inf}


@pytest.mark.parametrize(
    ("change", "fault", "text"),
    [
        (
            {"nonfinite_rewards": 2, "first_fault_step": 4, **BAD_LOSS, "nonfinite_parameters": 7},
            ("reward", 2, 4, 2),
            "update 2: the environment Pole returned a NaN or infinite reward in 2 steps, first in step 4",
        ),
        (
            {"nonfinite_observations": 1, "first_fault_step": 0, "masked_states": 3, **BAD_LOSS},
            ("observation", 2, 0, 1),
            "update 2: the environment Pole allowed no action in 3 states and returned a NaN or infinite observation",
        ),
        ({"masked_states": 3, "first_fault_step": 5}, ("mask", 2, 5, 3), "Pole allowed no action in 3 states"),
        ({"lost_final_observations": 2, **BAD_LOSS}, ("truncation", 2, -1, 2), "2 truncated steps"),
        (BAD_LOSS | {"nonfinite_parameters": 9}, ("loss", 2, -1, 9), "update 2: value_loss became inf, then 9 param"),
        ({"nonfinite_parameters": 9}, ("parameters", 2, -1, 9), "update 2: 9 parameters became NaN or infinite"),
        ({"kl": -np.inf}, ("loss", 2, -1, 0), "KL divergence .* became -inf"),
        ({"grad_norm": np.nan}, ("loss", 2, -1, 0), "grad_norm became nan"),
    ],
    ids=readable,
)
def test_the_cause_is_named_and_not_its_consequences(change, fault, text):
    found = find_fault(metrics({}, change, {"nonfinite_rewards": 1}), "Pole")
    assert (found.kind, found.update, found.step, found.count) == fault
    assert re.search(text, found.message)


def test_a_healthy_run_has_no_fault():
    assert find_fault(metrics({}, {})) is None


def test_the_number_of_the_update_includes_earlier_updates():
    assert find_fault(metrics({}, BAD_LOSS), first_update=10).update == 12


def test_other_metrics_are_checked_if_their_names_are_known():
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
