"""Search in batches: all settings of a batch are trained side by side, and their scores lead to the next batch."""

from __future__ import annotations

from collections.abc import Mapping

from purejaxppo._util.files import write_atomic
from purejaxppo.config.toml import dump_toml
from purejaxppo.sweeps import store
from purejaxppo.sweeps.optuna_study import Studies
from purejaxppo.sweeps.runner import Runner, Span
from purejaxppo.sweeps.spec import with_values
from purejaxppo.sweeps.store import Chosen


def run_batches(runner: Runner, identity: str) -> dict[str, tuple[int, ...]]:
    """Let Optuna choose, run and learn, batch by batch; then test the winners. Returns the winners by task.

    Args:
        runner: of a sweep whose settings have no values yet; it ends with all of them.
        identity: of the results folder.

    Raises:
        ConfigError, UsageError: the storage cannot be reached.
    """
    plan = runner.sweep
    size, batch, count = plan.options.num_settings, plan.options.batch, runner.count
    studies = Studies(plan, runner.folder, identity)
    chosen = store.read_chosen(runner.folder)
    studies.forget(chosen)
    whole = Span("batch", 0, count, True)
    runner.expect([whole])
    for number, first in enumerate(range(0, size, batch)):
        last = min(first + batch, size)
        settings = [start + k for start in range(0, len(plan.settings), size) for k in range(first, last)]
        if not set(settings) <= set(chosen):
            chosen |= studies.ask(number, settings)
            store.write_chosen(runner.folder, chosen)
        runner.sweep = with_values(plan, _values(chosen))
        for i in settings:
            text = dump_toml(runner.sweep.run(i, plan.seeds[0]))
            write_atomic(runner.folder / store.SETTINGS / f"{i}.toml", text)
        trials = [(setting, seed) for setting in settings for seed in plan.seeds]
        runner.run_span(whole._replace(name=f"batch{number:04d}"), trials)
        for i in settings:
            studies.tell(i, chosen[i], runner.level(i))
    return runner.test_winners(range(len(plan.settings)))


def _values(chosen: Mapping[int, Chosen]) -> dict[int, dict]:
    return {i: c.values for i, c in chosen.items()}
