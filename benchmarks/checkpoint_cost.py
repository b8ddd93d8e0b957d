"""Measure the share of the run time that checkpoints take at the default interval.

    python benchmarks/checkpoint_cost.py W1 W2 --seconds 150

Trains a workload of the benchmark as `purejaxppo train` does, for a given time, and adds up the time of checkpoints and
policies, the last ones included, and that of the rows of metrics. Compilation does not count.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import jax

from purejaxppo.bench.workloads import WORKLOADS
from purejaxppo.cli.chunks import chunks
from purejaxppo.cli.run_log import RunLog
from purejaxppo.config.schema import Run
from purejaxppo.devices.cpu import prepare_cpu
from purejaxppo.tracking.metrics_file import metrics_file
from purejaxppo.training.intervals import DEFAULT_INTERVAL
from purejaxppo.training.recorder import Position, Recorder
from purejaxppo.training.runs import build


def measure(run: Run, seconds: float) -> dict[str, float]:
    """Train for some seconds and return what was measured.

    Args:
        run: the settings; the run does not end before the time is over.
        seconds: of training after the first chunk, which includes the compilation.
    """
    total = run.config.timesteps_per_update * 10**9
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, total_timesteps=total))
    run = dataclasses.replace(run, hyperparams=run.hyperparams._replace(lr_anneal=0.0))
    algo, log = build(run), RunLog(run, None, Position(0, 0.0))
    with tempfile.TemporaryDirectory() as name, metrics_file(Path(name) / "metrics.csv") as csv:
        recorder = Recorder(Path(name), run, algo, csv, DEFAULT_INTERVAL, print, {"overrides": []})
        started, saving, writing, saves = 0.0, 0.0, 0.0, 0
        for state, metrics in chunks(run, algo, None, 0, run.config.num_updates, lambda _: None):
            started = started or time.monotonic()
            rows = log.add(state, metrics)
            begun = time.monotonic()
            recorder.write(rows)
            written, before = time.monotonic(), recorder.saved
            over = written - started > seconds
            recorder.save(state, log.position) if over else recorder.save_if_due(state, log.position)
            saving += time.monotonic() - written
            writing += written - begun
            saves += recorder.saved != before
            if over:
                break
        elapsed = time.monotonic() - started
        size = sum(file.stat().st_size for file in (Path(name) / "checkpoints").rglob("*")) / max(saves, 1)
    return {
        "seconds": elapsed,
        "saves": saves,
        "megabytes": size / 1e6,
        "checkpoints": saving / elapsed,
        "rows": writing / elapsed,
    }


def main() -> None:
    """Measure each workload and print a line of a table for it."""
    parser = argparse.ArgumentParser(description="Measure the cost of checkpoints.")
    parser.add_argument("workloads", nargs="+", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, default=150.0)
    args = parser.parse_args()
    prepare_cpu()
    device = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
    print(f"| workload on {device} | s | saves | MB each | checkpoints | rows |")
    for name in args.workloads:
        result = measure(WORKLOADS[name].run, args.seconds)
        print(
            f"| {name} | {result['seconds']:.0f} | {result['saves']} | {result['megabytes']:.2f} "
            f"| {result['checkpoints']:.2%} | {result['rows']:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
