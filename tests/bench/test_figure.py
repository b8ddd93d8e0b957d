"""The figure shows the report: the lengths of bars are the measured values, and phases add up to an update."""

import matplotlib.image
import pytest
from bench_reports import MACHINE, RESULT

from purejaxppo.bench import figure
from purejaxppo.bench.figure import PHASE_COLORS, plot_bench

REPORT = {
    "machine": MACHINE,
    "versions": {"purejaxppo": "0"},
    "workloads": {
        "W1": RESULT | {"compile": {"cold_s": 10.0, "warm_s": 1.5}},
        "W2": RESULT | {"compile": {"cold_s": 4.0, "warm_s": 1.0}, "split_s": RESULT["split_s"] | {"rest": -0.1}},
        "W7": {"error": "x"},
    },
}
CURVES = {
    "scaling": [{"num_envs": n, "steps_per_s": RESULT["steps_per_s"]} for n in (64, 128)],
    "drift": {"seconds": [0.1] * 20, "last_to_first": 1.0},
}


def axes_of(monkeypatch, path, report):
    """Return the axes of the figure that `plot_bench` saves."""
    saved = []
    save = figure.save_figure
    monkeypatch.setattr(figure, "save_figure", lambda fig, path: (saved.append(fig), save(fig, path)))
    plot_bench(path, report)
    return saved[0].axes


def test_bars_show_the_numbers_of_the_workloads_that_succeeded(monkeypatch, tmp_path):
    speed, phases, compiling = axes_of(monkeypatch, tmp_path / "bench.png", REPORT)
    assert [label.get_text() for label in speed.get_yticklabels()] == ["W1", "W2"]
    assert [bar.get_width() for bar in speed.patches] == [1000.0, 1000.0]
    assert [bar.get_width() for bar in compiling.patches] == [10.0, 4.0, 1.5, 1.0]
    widths = [bar.get_width() for bar in phases.patches]
    assert len(widths) == 2 * len(PHASE_COLORS)
    assert sum(widths[::2]) == pytest.approx(1.0)
    assert sum(widths[1::2]) == pytest.approx(1.0)  # a negative rest has no width
    assert widths[-1] == 0.0


def test_curves_are_two_more_panels(monkeypatch, tmp_path):
    *_, scaling, drift = axes_of(monkeypatch, tmp_path / "bench.png", REPORT | CURVES)
    assert list(scaling.lines[0].get_xdata()) == [64, 128]
    assert list(drift.lines[0].get_ydata()) == [100.0] * 20
    assert matplotlib.image.imread(tmp_path / "bench.png").ndim == 3
