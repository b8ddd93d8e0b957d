"""Run the benchmark: every workload in a separate process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping

from purejaxppo.bench.machine import describe_machine, measure_ceilings, versions
from purejaxppo.bench.measure import compile_warm, measure_cold
from purejaxppo.bench.scaling import measure_drift, measure_scaling, scaling_sizes
from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess
from purejaxppo.bench.timing import Log, Report, TimingBudget
from purejaxppo.bench.workloads import WORKLOADS, Workload
from purejaxppo.config.schema import Run


def run_benchmark(
    workloads: Mapping[str, Workload] | None, budget: TimingBudget, log: Log, curves: Run | None = None
) -> Report:
    """Measure workloads one after the other.

    Args:
        workloads: by name; None: all that suit the platform.
        budget: how long to measure.
        log: receives lines of progress.
        curves: the run to measure for speed against environments and time against updates; None: no curves.

    Returns:
        The report. A workload that fails has an "error" instead of results, and a curve ends where it fails.
    """
    log("measuring the limits of the machine")
    machine = run_in_subprocess(describe_machine)
    machine |= run_in_subprocess(measure_ceilings, budget)
    on_cpu = machine["platform"] == "cpu"
    chosen = workloads or {name: w for name, w in WORKLOADS.items() if not (on_cpu and w.for_gpu)}
    report: Report = {"machine": machine, "versions": versions(), "budget": budget._asdict(), "workloads": {}}
    for name, workload in chosen.items():
        for num_seeds in workload.seeds_on(machine["platform"]):
            title = name if num_seeds == workload.num_seeds else f"{name} x {num_seeds}"
            result = _measure_in_subprocesses(title, workload, num_seeds, budget, log)
            report["workloads"][title] = {"description": workload.description} | _with_fractions(result, machine)
    if curves is not None:
        sizes = scaling_sizes(machine["platform"])
        report["scaling"] = measure_scaling(curves, sizes, budget, log)
        report["drift"] = measure_drift(curves, sizes[0], log)
    return report


def _measure_in_subprocesses(title: str, workload: Workload, num_seeds: int, budget: TimingBudget, log: Log) -> Report:
    """Measure a workload in one process, and its compile time from the cache in another."""
    log_titled: Log = lambda text: log(f"{title}: {text}")  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as folder:
        try:
            result = run_in_subprocess(measure_cold, folder, workload.run, num_seeds, budget, log=log_titled)
            log_titled("starting again from the compile cache")
            started = time.perf_counter()
            result["compile"] |= run_in_subprocess(compile_warm, folder, workload.run, num_seeds)
            result["compile"]["warm_start_to_first_update_s"] = time.perf_counter() - started
        except ChildFailed as failure:
            log_titled(f"failed: {failure}")
            return {"error": str(failure)}
    times = result["compile"]
    for kind in ("cold", "warm"):
        times[f"{kind}_s"] = times[f"trace_{kind}_s"] + times[f"compile_{kind}_s"]
    return result


def _with_fractions(result: Report, ceiling: Report) -> Report:
    """Add the fractions of the machine's limits that a workload reaches."""
    if "error" in result:
        return result
    rate = result["steps_per_s"]["median"]
    return result | {
        "matmul_fraction": rate * result["flops_per_step"] / ceiling["matmul_flops_per_s"],
        "memory_fraction": rate * result["bytes_per_step"] / ceiling["memory_bytes_per_s"],
    }
