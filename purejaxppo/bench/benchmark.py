"""Run the benchmark: every workload in its own process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping

from purejaxppo.bench.machine import ceilings, machine, versions
from purejaxppo.bench.measure import compile_warm, measure_cold
from purejaxppo.bench.scaling import SIZES, measure_drift, measure_scaling
from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess
from purejaxppo.bench.timing import Report, Say, TimingBudget
from purejaxppo.bench.workloads import WORKLOADS, Workload
from purejaxppo.config.schema import Run


def run_benchmark(
    workloads: Mapping[str, Workload] | None, effort: TimingBudget, say: Say, curves: Run | None = None
) -> Report:
    """Measure workloads one after the other -> everything as plain numbers, texts, lists and dicts.

    workloads: by name; None: all that suit the platform. say: is told, in a line each, how it goes on.
    curves: the run of which speed against environments and time against updates are measured, if any.
    A workload that fails has an "error" in the place of its numbers, and a curve ends where it fails.
    """
    say("measuring what the machine can do")
    about = run_in_subprocess(machine)
    about |= run_in_subprocess(ceilings, effort)
    on_cpu = about["platform"] == "cpu"
    chosen = workloads or {name: w for name, w in WORKLOADS.items() if not (on_cpu and w.for_gpu)}
    report: Report = {"machine": about, "versions": versions(), "effort": effort._asdict(), "workloads": {}}
    for name, workload in chosen.items():
        for num_seeds in workload.seeds_on(about["platform"]):
            title = name if num_seeds == workload.num_seeds else f"{name} x {num_seeds}"
            result = _in_children(title, workload, num_seeds, effort, say)
            report["workloads"][title] = {"description": workload.description} | _with_fractions(result, about)
    if curves is not None:
        sizes = [2**i for i in SIZES.get(about["platform"], range(6, 18))]
        report["scaling"], report["drift"] = (
            measure_scaling(curves, sizes, effort, say),
            measure_drift(curves, sizes[0], say),
        )
    return report


def _in_children(title: str, workload: Workload, num_seeds: int, effort: TimingBudget, say: Say) -> Report:
    tell: Say = lambda text: say(f"{title}: {text}")  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="purejaxppo-bench-") as folder:
        try:
            result = run_in_subprocess(measure_cold, folder, workload.run, num_seeds, effort, say=tell)
            tell("starting once more, from the cache")
            started = time.perf_counter()
            result["compile"] |= run_in_subprocess(compile_warm, folder, workload.run, num_seeds)
            result["compile"]["warm_start_to_first_update_s"] = time.perf_counter() - started
        except ChildFailed as failure:
            tell(f"failed: {failure}")
            return {"error": str(failure)}
    times = result["compile"]
    for kind in ("cold", "warm"):
        times[f"{kind}_s"] = times[f"trace_{kind}_s"] + times[f"compile_{kind}_s"]
    return result


def _with_fractions(result: Report, ceiling: Report) -> Report:
    """The same with how much of the machine's ceilings is reached."""
    if "error" in result:
        return result
    rate = result["steps_per_s"]["median"]
    return result | {
        "matmul_fraction": rate * result["flops_per_step"] / ceiling["matmul_flops_per_s"],
        "memory_fraction": rate * result["bytes_per_step"] / ceiling["memory_bytes_per_s"],
    }
