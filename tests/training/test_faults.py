"""Faults of an update are attributed to the mask, to the environment, or to learning."""

import math

import pytest
from readable import readable

from purejaxppo.training.faults import find_fault

SOUND = {"policy_loss": 0.1, "value_loss": 1.0, "entropy": 0.5, "total_loss": 0.6, "grad_norm": 1.0, "kl": 0.01}
SOUND |= {"masked_states": 0.0, "nonfinite_observations": 0.0, "nonfinite_rewards": 0.0}
SOUND |= {"lost_final_observations": 0.0}
SOUND |= {"first_fault_step": -1.0, "first_fault_env": -1.0, "nonfinite_parameters": 0.0}
SOUND |= {"skip_cause": 0.0, "skipped_updates": 0.0, "stalled": 0.0}
NAN = math.nan


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"masked_states": 1.0, "first_fault_step": 4.0, "first_fault_env": 31.0, "total_loss": NAN},
            ["Toy allowed no action in 1 state,", "step 4", "environment 31"],
        ),
        ({"nonfinite_observations": 2.0, "first_fault_step": 0.0}, ["infinite observation in 2 steps", "step 0"]),
        (
            {"nonfinite_rewards": 3.0, "first_fault_step": 7.0, "value_loss": NAN},
            ["infinite reward in 3 steps", "step 7"],
        ),
        ({"lost_final_observations": 3.0, "kl": NAN}, ["truncation_gap allows", "3 truncated steps", "or 1"]),
        ({"value_loss": math.inf, "total_loss": math.inf, "grad_norm": NAN}, ["value_loss became inf. "]),
        ({"grad_norm": NAN, "nonfinite_parameters": 5.0}, ["grad_norm became nan, then 5 parameters became"]),
        ({"nonfinite_parameters": 1.0}, ["1 parameter became"]),
        ({"kl": math.inf}, ["KL divergence", "inf"]),
        ({"stalled": 1.0, "skipped_updates": 11.0, "skip_cause": 1.0}, ["the loss of every minibatch", "11 updates"]),
        ({"stalled": 1.0, "skipped_updates": 1.0, "skip_cause": 2.0}, ["the gradient of", "1 update in a row"]),
        ({"stalled": 1.0, "skipped_updates": 2.0, "skip_cause": 3.0}, ["the result of the step"]),
    ],
    ids=readable,
)
def test_the_first_cause_is_named(changes, parts):
    message = find_fault(SOUND | changes, "Toy")
    for part in parts:
        assert part in message


def test_faults_of_the_environment_precede_those_they_cause():
    changes = {"nonfinite_rewards": 1.0, "policy_loss": NAN, "total_loss": NAN, "nonfinite_parameters": 9.0}
    assert "parameter" not in find_fault(SOUND | changes, "Toy")


def test_a_healthy_update_has_no_fault():
    assert find_fault(SOUND, "Toy") == ""
    assert find_fault(SOUND | {"skip_cause": 1.0, "skipped_updates": 3.0}, "Toy") == ""  # few enough in a row
