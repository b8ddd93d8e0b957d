"""Measure the share of the run time that checkpoints and evaluations during training take.

    python benchmarks/checkpoint_cost.py W1 W2 --seconds 150
    python benchmarks/checkpoint_cost.py W1 W2 --seconds 60 --evaluate-every 50

Trains a workload of the benchmark as `purejaxppo train` does, with checkpoints at the default interval, for a given
time, and adds up the time of checkpoints and policies, the last ones included, that of the rows of metrics, and that of
evaluations with what they write. Compilation does not count.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from purejaxppo.bench.workloads import WORKLOADS
from purejaxppo.cli.chunks import chunks
from purejaxppo.cli.run_log import RunLog
from purejaxppo.config.schema import Run
from purejaxppo.devices.cpu import prepare_cpu
from purejaxppo.tracking.metrics_file import metrics_file
from purejaxppo.training.checkpoint_folder import find_checkpoint
from purejaxppo.training.intervals import DEFAULT_INTERVAL
from purejaxppo.training.policy_file import Policy
from purejaxppo.training.recorder import Position, Recorder
from purejaxppo.training.results import EVALUATION_EPISODES, evaluate_policy
from purejaxppo.training.runs import build
from purejaxppo.training.selection import Evaluated, Standing, with_evaluations
from purejaxppo.types import Algorithm


@dataclasses.dataclass
class Cost:
    """What a run has cost since its first chunk, which includes the compilation."""

    started: float = 0.0  # later by the first evaluation, which is compiled too
    seconds: float = 0.0
    updates: int = 0
    saves: int = 0
    saving: float = 0.0  # seconds, like the next two
    writing: float = 0.0
    evaluating: float = 0.0
    evaluations: int = -1
    episode_length: float = 0.0  # mean of the last evaluation

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the duration of a block to a field."""
        begun = time.monotonic()
        yield
        setattr(self, name, getattr(self, name) + time.monotonic() - begun)

    def add_evaluation(self, item: Evaluated, writing: float) -> None:
        """Take in an evaluation, and how long writing its results took."""
        self.evaluations += 1
        self.episode_length = item.figures.get("mean_length", 0.0)
        if self.evaluations:
            self.evaluating += item.seconds + writing
        else:
            self.started += item.seconds + writing


def measure(run: Run, seconds: float) -> tuple[Cost, float]:
    """Train for some seconds and return what it cost, and the megabytes of a checkpoint.

    Args:
        run: the settings; the run does not end before the time is over.
        seconds: of training after the first chunk.
    """
    total = run.config.timesteps_per_update * 10**9
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, total_timesteps=total))
    run = dataclasses.replace(run, hyperparams=run.hyperparams._replace(lr_anneal=0.0))
    algo = build(run)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with metrics_file(folder / "metrics.csv") as csv, metrics_file(folder / "evaluations.csv") as evaluations:
            settings = (DEFAULT_INTERVAL, print, {"overrides": []})
            cost = _train(run, algo, Recorder(folder, run, algo, csv, *settings, evaluations=evaluations), seconds)
        files = find_checkpoint(folder).folder.rglob("*")
        return cost, sum(file.stat().st_size for file in files) / 1e6


def _train(run: Run, algo: Algorithm, recorder: Recorder, seconds: float) -> Cost:
    """Train for some seconds after the first chunk, and save at the end."""

    def evaluate(policy: Policy, num_updates: int) -> dict[str, float]:
        return evaluate_policy(algo, policy, run.seed, EVALUATION_EPISODES, True, num_updates)

    cost, log = Cost(), RunLog(run, None, Position(0, 0.0))
    items = chunks(run, algo, None, 0, run.config.num_updates, recorder.updates_until_due)
    for item in with_evaluations(items, run, None, 0, Standing(), evaluate):
        cost.started = cost.started or time.monotonic()
        before = recorder.saved
        if isinstance(item, Evaluated):
            log.exclude(item.seconds)
            begun = time.monotonic()
            recorder.add_evaluation(item, log.position)
            cost.add_evaluation(item, time.monotonic() - begun)
        else:
            rows = log.add(*item)
            with cost.timed("writing"):
                recorder.write(rows)
        over = time.monotonic() - cost.started > seconds
        with cost.timed("saving"):
            recorder.save(log.state, log.position) if over else recorder.save_if_due(log.state, log.position)
        cost.saves += recorder.saved != before
        if over:
            break
    cost.seconds, cost.updates = time.monotonic() - cost.started, log.done
    return cost


def row(name: str, run: Run, cost: Cost, megabytes: float) -> dict[str, str]:
    """Return a line of the table by column."""
    share = {field: f"{getattr(cost, field) / cost.seconds:.2%}" for field in ("saving", "writing", "evaluating")}
    cells = {
        "workload": name,
        "s": f"{cost.seconds:.0f}",
        "env steps": f"{cost.updates * run.config.timesteps_per_update:,}",
        "saves": str(cost.saves),
        "MB each": f"{megabytes:.2f}",
        "checkpoints": share["saving"],
        "rows": share["writing"],
    }
    if not run.evaluate_every:
        return cells
    each = f"{1e3 * cost.evaluating / max(cost.evaluations, 1):.0f}"
    length = f"{cost.episode_length:.0f}"
    counted = str(max(cost.evaluations, 0))
    return cells | {"evaluations": counted, "ms each": each, "steps each": length, "share": share["evaluating"]}


def main() -> None:
    """Measure each workload and print a line of a table for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--evaluate-every", type=int, default=0, help="updates between evaluations; 0: none")
    args = parser.parse_args()
    prepare_cpu()
    print(f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, {EVALUATION_EPISODES} episodes per evaluation")
    header = True
    for name in args.workloads:
        run = dataclasses.replace(WORKLOADS[name].run, evaluate_every=args.evaluate_every)
        cells = row(name, run, *measure(run, args.seconds))
        lines = [cells.keys(), ["---"] * len(cells)] if header else []
        for line in [*lines, cells.values()]:
            print(f"| {' | '.join(line)} |", flush=True)
        header = False


if __name__ == "__main__":
    main()
