"""The table has a column for each workload, and shares that add up."""

from bench_reports import MACHINE, RESULT

from purejaxppo.bench.table import bench_table
from purejaxppo.bench.workloads import WORKLOADS


def test_the_table_has_a_column_for_each_workload():
    result = RESULT | {"matmul_fraction": 0.227, "memory_fraction": 0.065}
    result["compile"] = {"cold_s": 10.0, "warm_s": 1.5}
    report = {"machine": MACHINE, "versions": {"jax": "0.10.2"}}
    report["workloads"] = dict.fromkeys(WORKLOADS, result) | {"W7": {"error": "x"}}
    table = bench_table(report)
    assert [column.header for column in table.columns] == ["", *WORKLOADS, "W7"]
    cells = dict(zip(table.columns[0].cells, table.columns[1].cells, strict=True))
    assert (cells["steps/s"], cells["one update"], cells["compile, cold"]) == ("1k", "500 ms", "10.0 s")
    assert (cells["  environment"], cells["  gradients"], cells["  rest"]) == ("20%", "38%", "10%")
    assert (cells["FLOP per env step"], cells["  of matmul ceiling"]) == ("227k", "22.7%")
    assert cells["peak memory"] == "155MB"
    assert list(table.columns[7].cells)[:2] == ["failed", ""]
