"""The figure of a run shows all values of the run."""

import itertools

import numpy as np
import pytest

from purejaxppo.analysis.curves import (
    MARK,
    MAX_POINTS,
    MIN_EPISODES,
    PANELS,
    curve_figure,
    learning_curve,
    update_curve,
)


def metrics(n: int, seed: int = 0, steps: float = 100.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = np.cumsum(rng.normal(1.0, 3.0, n))
    episodes = rng.integers(0, 4, n).astype(float)
    mean = np.where(episodes > 0, mean, np.nan)
    return {
        "timesteps": np.arange(1, n + 1) * steps,
        "num_episodes": episodes,
        "episode_return_mean": mean,
        "episode_return_min": mean - 5.0,
        "episode_return_max": mean + 9.0,
    } | {name: rng.uniform(0.1, 0.9, n) for name in PANELS}


def without_episodes(n: int) -> dict[str, np.ndarray]:
    nan = np.full(n, np.nan)
    return metrics(n) | {"num_episodes": np.zeros(n), **{f"episode_return_{k}": nan for k in ("mean", "min", "max")}}


def tick_labels(axis) -> list[str]:
    axis.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels()]


# Data ----------------------------------------------------------------------------------------------------------------


def test_a_short_curve_is_not_pooled():
    m = metrics(50)
    m["num_episodes"] *= 100
    some = m["num_episodes"] > 0
    curve = learning_curve(m)
    for name, column in [("mean", "episode_return_mean"), ("min", "episode_return_min"), ("timesteps", "timesteps")]:
        np.testing.assert_allclose(curve[name], m[column][some], rtol=1e-12)


@pytest.mark.parametrize("n", [3, 40, 5000])
def test_points_divide_all_episodes_among_them(n):
    m = metrics(n)
    curve = learning_curve(m)
    ends = [0, *(int(t / 100) for t in curve["timesteps"])]
    assert len(ends) - 1 <= MAX_POINTS
    for at, (start, end) in enumerate(itertools.pairwise(ends)):
        episodes = [m["episode_return_mean"][i] for i in range(start, end) for _ in range(int(m["num_episodes"][i]))]
        assert len(episodes) >= MIN_EPISODES or len(ends) == 2
        assert curve["mean"][at] == pytest.approx(sum(episodes) / len(episodes))
        assert curve["min"][at] == np.nanmin(m["episode_return_min"][start:end])
        assert curve["max"][at] == np.nanmax(m["episode_return_max"][start:end])
    assert not m["num_episodes"][ends[-1] :].any()


@pytest.mark.parametrize("n", [0, 1, 200, 1000])
def test_a_curve_of_updates_averages_neighbors_and_excludes_non_finite_values(n):
    m = metrics(n)
    m["kl"][::7] = np.nan
    steps, values = update_curve(m, "kl")
    finite = m["kl"][np.isfinite(m["kl"])]
    assert len(steps) == len(values) == min(len(finite), MAX_POINTS)
    if n <= 200:
        np.testing.assert_array_equal(values, finite)
    elif n == 1000:  # 857 values in 200 pools: 57 of 5 and 143 of 4
        np.testing.assert_allclose(values[:57], finite[:285].reshape(57, 5).mean(1))
        np.testing.assert_allclose(values[57:], finite[285:].reshape(143, 4).mean(1))


# Axes ----------------------------------------------------------------------------------------------------------------


def test_the_axes_hold_the_mean_the_band_and_the_evaluation():
    m = metrics(100)
    curve = learning_curve(m)
    returns = curve_figure(m, "CartPole-v1", evaluation=100.0).axes[0]
    mean, evaluation = returns.lines
    np.testing.assert_array_equal(mean.get_xdata(), curve["timesteps"])
    np.testing.assert_array_equal(mean.get_ydata(), curve["mean"])
    assert list(evaluation.get_ydata()) == [100.0, 100.0]
    assert evaluation.get_color() == MARK
    corners = returns.collections[0].get_paths()[0].vertices
    for x, low, high in zip(curve["timesteps"], curve["min"], curve["max"], strict=True):
        at = corners[corners[:, 0] == x, 1]
        assert {low, high} == set(at)
    assert len(curve_figure(m, "CartPole-v1").axes[0].lines) == 1


def test_the_small_panels_hold_four_metrics_over_the_same_steps():
    m = metrics(100)
    returns, *panels = curve_figure(m, "CartPole-v1").axes
    assert len(panels) == len(PANELS) == 4
    for axes, name in zip(panels, PANELS, strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), m["timesteps"])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), m[name])
        assert axes.get_xlim() == returns.get_xlim()


def test_a_poor_fit_at_the_start_does_not_flatten_the_rest():
    m = metrics(50)
    m["explained_variance"][0] = -300.0
    axes = curve_figure(m, "x").axes[1 + list(PANELS).index("explained_variance")]
    assert axes.get_ylim() == (-1.0, 1.02)


def test_the_legend_does_not_cover_the_data():
    figure = curve_figure(metrics(100), "CartPole-v1", evaluation=100.0)
    figure.canvas.draw()
    axes = figure.axes[0]
    legend = axes.get_legend().get_window_extent()
    assert len(axes.get_legend().get_texts()) == 3
    assert legend.y0 >= axes.get_window_extent().y1
    assert legend.x1 <= figure.axes[1].get_window_extent().x0
    assert legend.y1 <= figure.bbox.y1


def test_a_run_without_a_finished_episode_has_a_label_and_a_step_axis():
    returns, *panels = curve_figure(without_episodes(40), "no episode").axes
    assert [text.get_text() for text in returns.texts] == ["no episode finished"]
    assert not returns.lines
    assert tick_labels(returns.yaxis) == []
    labels = tick_labels(returns.xaxis)
    assert labels[0] == "0"
    assert "1k" in labels
    assert returns.get_xlim()[1] >= 4000
    assert all(len(axes.lines[0].get_xdata()) == 40 for axes in panels)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_runs_with_few_or_no_updates_have_a_figure_too(n):
    m = metrics(n) | {"num_episodes": np.ones(n)}
    m |= {f"episode_return_{kind}": np.full(n, 3.0) for kind in ("mean", "min", "max")}
    returns, *panels = curve_figure(m, "few").axes
    assert len(returns.lines) == (n > 0)
    assert [x.get_label() for x in returns.collections] == ["lowest to highest episode"] * (n > 0)
    for axes in (returns, *panels):
        assert not any("m" in label or "µ" in label for label in tick_labels(axes.xaxis))  # thousandths of a step
        for line in axes.lines:
            assert (line.get_marker() == "o") == (len(line.get_xdata()) < 3)


def test_a_billion_steps_are_counted_in_millions():
    axes = curve_figure(metrics(300, steps=4e6), "x").axes[0]
    labels = tick_labels(axes.xaxis)
    assert labels[0] == "0"
    assert any(label.endswith("M") for label in labels)
    assert max(map(len, labels)) <= 5
