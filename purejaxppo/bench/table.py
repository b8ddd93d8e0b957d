"""Show the benchmark report as a table."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from purejaxppo._util.text import brief, short
from purejaxppo.bench.timing import Report


def bench_table(report: Report) -> Table:
    """Return the report of `run_benchmark` as a table with a column for each workload."""
    machine = report["machine"]
    device = machine["device"] if machine["platform"] != "cpu" else f"{machine['cpu']}, {machine['cores']} cores"
    title = f"{device}; jax {report['versions']['jax']}"
    table = Table(title=title, title_style="bold", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    results = report["workloads"]
    for name in results:
        table.add_column(name, justify="right")
    columns = [_cells(result) for result in results.values()]
    labels = dict.fromkeys(label for column in columns for label in column)  # a failed workload has few of them
    for label in labels:
        table.add_row(label, *(column.get(label, "") for column in columns))
    return table


def _cells(result: Report) -> dict[str, str]:
    """Return the cells of a workload's column by label."""
    if "error" in result:
        return {"steps/s": "failed"}
    rate, compiled, kernels, update_s = (result[key] for key in ("steps_per_s", "compile", "kernels", "update_s"))
    cells = {
        "steps/s": short(rate["median"]),
        "  minimum": short(rate["min"]),
        "  maximum": short(rate["max"]),
        "compile, cold": f"{compiled['cold_s']:.1f} s",
        "compile, warm": f"{compiled['warm_s']:.1f} s",
        "one update": brief(update_s["median"]),
    }
    cells |= {f"  {name}": f"{s / update_s['median']:.0%}" for name, s in result["split_s"].items()}
    return cells | {
        "kernels per env step": f"{kernels['per_env_step']:.1f}",
        "kernels per minibatch": f"{kernels['per_minibatch']:.1f}",
        "FLOP per env step": short(result["flops_per_step"]),
        "  of matmul ceiling": f"{result['matmul_fraction']:.1%}",
        "bytes per env step": short(result["bytes_per_step"]),
        "  of memory ceiling": f"{result['memory_fraction']:.1%}",
        "peak memory": f"{short(result['peak_memory_bytes'])}B",
    }
