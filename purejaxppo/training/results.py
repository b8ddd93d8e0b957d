"""The results of a run: final evaluation, summary and learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from purejaxppo._util.version import __version__
from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.training.run_folder import CURVE_FILE, METRICS_FILE, SUMMARY_FILE

if TYPE_CHECKING:
    from purejaxppo.training.policy_file import Policy
    from purejaxppo.types import Algorithm

EVALUATION_EPISODES = 128

EVALUATION_KEY = 0xE7A1  # folded into the key of the seed, so that evaluation and training draw different numbers
SELECTION_KEY = 0x5E1E  # the same for evaluations during training, so that the final one judges with other episodes


class Outcome(NamedTuple):
    """How training ended."""

    status: str  # finished, interrupted or diverged
    code: int  # exit code
    num_updates: int
    seconds: float  # of training, evaluations excluded
    seconds_first_update: float  # compilation included
    policy: Policy | None  # the last one with finite parameters and metrics; None if there is none
    message: str  # why training ended early; "" if it finished
    best: Mapping[str, float] = MappingProxyType({})  # updates and mean return of the best policy, if one was selected


def evaluate_policy(
    algo: Algorithm, policy: Policy, seed: int, num_episodes: int, greedy: bool, num_updates: int = 0
) -> dict[str, float]:
    """Play whole episodes and return statistics of their returns and lengths.

    An environment on the host opens batches for them, separate from that of training.

    Args:
        algo: the algorithm.
        policy: its policy.
        seed: of the run.
        num_episodes: of the evaluation.
        greedy: take the mode of the policy instead of a sample.
        num_updates: updates that led to the policy, in an evaluation during training: each update plays different
            episodes. 0: the final evaluation, which plays different ones again.

    Raises:
        UsageError: the policy or the environment returned NaN, or the environment allowed no action.
        OutOfMemoryError: the device has too little memory; lists the buffers.
    """
    import jax
    import numpy as np

    from purejaxppo.training.evaluation import MAX_STEPS
    from purejaxppo.training.evaluation_memory import evaluate_within_memory
    from purejaxppo.training.health import RunError

    key = jax.random.fold_in(jax.random.key(seed), SELECTION_KEY if num_updates else EVALUATION_KEY)
    if num_updates:
        key = jax.random.fold_in(key, num_updates)
    try:
        result = evaluate_within_memory(algo, policy, key, num_episodes, greedy, MAX_STEPS)
    except RunError as error:
        raise UsageError(f"evaluation: {error}") from None
    returns, lengths = np.asarray(result.returns, np.float64), np.asarray(result.lengths, np.float64)
    figures = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "median": np.median(returns)}
    figures |= {"max": returns.max(), "mean_length": lengths.mean()}
    counts = {"episodes": len(returns), "unfinished": int((~np.asarray(result.finished)).sum())}
    return {name: float(f"{value:.7g}") for name, value in figures.items()} | counts


def evaluation_line(name: str, evaluation: Mapping[str, float]) -> str:
    """Return the statistics of one evaluation as a line.

    Args:
        name: "greedy" or "sampled".
        evaluation: what `evaluate_policy` returned.
    """
    e = evaluation
    text = f"{name + ' evaluation':<18}  return {e['mean']:.5g} ± {e['std']:.3g}  "
    text += f"({e['min']:.5g} to {e['max']:.5g}, {e['episodes']} episodes)"
    return text + (f"; {e['unfinished']} did not finish" if e["unfinished"] else "")


def evaluated_line(num_updates: int, evaluation: Mapping[str, float], best: int, problem: str = "") -> str:
    """Return the result of an evaluation during training as a line.

    Args:
        num_updates: of the policy.
        evaluation: what `evaluate_policy` returned; {} if it failed.
        best: updates of the best policy so far.
        problem: why it failed.
    """
    if not evaluation:
        return f"no evaluation after update {num_updates}: {problem}"
    place = "the best so far" if best == num_updates else f"the best is that of update {best}"
    return f"evaluation after update {num_updates}: return {evaluation['mean']:.5g} ± {evaluation['std']:.3g}, {place}"


def write_results(folder: Path, run: Run, outcome: Outcome, evaluations: Mapping[str, Mapping[str, float]]) -> None:
    """Write the summary and the learning curve of a run into its folder."""
    import tomli_w

    from purejaxppo._util.files import write_atomic

    write_atomic(folder / SUMMARY_FILE, tomli_w.dumps(_summary(run, outcome, evaluations)))
    if outcome.num_updates:
        from purejaxppo.analysis.curves import plot_curve
        from purejaxppo.tracking.csv_file import read_csv

        greedy = evaluations["greedy"]["mean"] if "greedy" in evaluations else None
        title = f"{run.env}, PPO, seed {run.seed}"
        columns = read_csv(folder / METRICS_FILE)
        if len(columns.get("timesteps", ())):
            plot_curve(folder / CURVE_FILE, columns, title, greedy)


def _summary(run: Run, outcome: Outcome, evaluations: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    import jax

    return {
        "status": outcome.status,
        "env": run.env,
        "seed": run.seed,
        "num_updates": outcome.num_updates,
        "timesteps": outcome.num_updates * run.config.timesteps_per_update,
        "seconds": round(outcome.seconds, 3),
        "seconds_first_update": round(outcome.seconds_first_update, 3),
        "device": jax.devices()[0].device_kind,
        "versions": _versions(),
        "evaluation": evaluations,
        **({"best": dict(outcome.best)} if outcome.best else {}),
    }


def _versions() -> dict[str, str]:
    found = {"purejaxppo": __version__}
    for name in ("jax", "jaxlib", "flax", "optax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
