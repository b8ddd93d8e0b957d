"""Choose how a sweep runs: all settings at once, in batches, or as populations."""

from __future__ import annotations

from purejaxppo.sweeps.batches import run_batches
from purejaxppo.sweeps.populations import run_populations
from purejaxppo.sweeps.runner import Runner


def run_method(runner: Runner, identity: str = "") -> dict[str, tuple[int, ...]]:
    """Run what is missing of a sweep, and return the winners by task.

    Args:
        runner: of the sweep.
        identity: of the results folder, for a study that several sweeps share.
    """
    method = runner.sweep.options.method
    if method == "optuna":
        return run_batches(runner, identity)
    if method == "population":
        return run_populations(runner)
    return runner.run()
