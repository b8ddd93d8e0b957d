"""Find the fault in the metrics of an update, and say what it is."""

import math
from collections.abc import Mapping

# In the order in which an update computes them: the first that is not finite made the others so.
SKIPPED = ("skip_cause", "skipped_updates", "stalled")
CAUSES = {  # of `Metrics.skip_cause`
    1: "the loss of every minibatch",
    2: "the gradient of every minibatch",
    3: "the result of the steps",
}
LEARNED = ("policy_loss", "value_loss", "entropy", "total_loss", "grad_norm")


def find_fault(row: Mapping[str, float], env: str) -> str:
    """Return a sentence about what is wrong with an update, "" if nothing is.

    Faults of the environment come first, because they make losses and parameters non-finite as well.

    Args:
        row: metrics of the update (see `purejaxppo.tracking.csv_file.rows_of`).
        env: name of the environment.
    """
    return _environment_fault(row, env) or _learning_fault(row)


def _environment_fault(row: Mapping[str, float], env: str) -> str:
    faults = []
    if row["masked_states"]:
        faults.append(f"allowed no action in {_count(row['masked_states'], 'state')}")
    if row["nonfinite_observations"]:
        faults.append(f"returned a NaN or infinite observation in {_count(row['nonfinite_observations'], 'step')}")
    if row["nonfinite_rewards"]:
        faults.append(f"returned a NaN or infinite reward in {_count(row['nonfinite_rewards'], 'step')}")
    if not faults and row["lost_final_observations"]:
        lost = _count(row["lost_final_observations"], "truncated step")
        return (
            f"{env} was truncated more often than its truncation_gap allows: the values of {lost} of the rollout are "
            "wrong. State the least number of steps to a truncation, or 1 if there is none."
        )
    if not faults:
        return ""
    advice = ""
    if row["masked_states"]:
        advice = (
            " A state whose action mask forbids all actions must end the episode; always_some_action allows all then."
        )
    return (
        f"{env} {' and '.join(faults)}, first in step {row['first_fault_step']:.0f} of "
        f"the rollout in environment {row['first_fault_env']:.0f}.{advice}"
    )


def _learning_fault(row: Mapping[str, float]) -> str:
    first = next((name for name in LEARNED if not math.isfinite(row[name])), "")
    count = row["nonfinite_parameters"]
    parameters = f"{_count(count, 'parameter')} became NaN or infinite" if count else ""
    if first:
        sentence = f"{first} became {row[first]}" + (f", then {parameters}" if parameters else "")
    elif parameters:
        sentence = parameters
    elif row["stalled"]:
        sentence = (
            f"{CAUSES[int(row['skip_cause'])]} was NaN or infinite, so that no step was taken in "
            f"{_count(row['skipped_updates'], 'update')} in a row"
        )
    elif not math.isfinite(row["kl"]):
        sentence = f"the KL divergence between old and new policy became {row['kl']}"
    else:
        return ""
    return f"{sentence}. A smaller learning_rate or max_grad_norm, or scale_rewards, may help."


def _count(number: float, noun: str) -> str:
    return f"{number:.0f} {noun}" + ("" if number == 1 else "s")
