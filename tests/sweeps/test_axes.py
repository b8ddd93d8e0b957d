"""Axes: grids, lists and samples take the values that they describe."""

import numpy as np
import pytest

from purejaxppo.sweeps.axes import Axis, combine, grid_values, low_discrepancy, parse_axis, quantile

RATE = Axis("hyperparams.learning_rate", low=1e-4, high=1e-2, scale="log", count=5)
GAMMA = Axis("hyperparams.gamma", (0.9, 0.99))


def test_a_grid_over_an_interval_includes_its_ends():
    np.testing.assert_allclose(grid_values(RATE), [1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2])
    assert grid_values(RATE)[0] == 1e-4
    assert grid_values(RATE)[-1] == 1e-2
    np.testing.assert_allclose(grid_values(RATE._replace(scale="linear")), np.linspace(1e-4, 1e-2, 5))


def test_quantiles_of_a_logarithmic_interval_and_of_a_list():
    assert quantile(RATE, 0.5) == pytest.approx(1e-3)
    assert quantile(RATE._replace(scale="linear"), 0.25) == pytest.approx(1e-4 + 0.25 * 9.9e-3)
    assert [quantile(GAMMA, u) for u in (0.0, 0.49, 0.5, 0.999)] == [0.9, 0.9, 0.99, 0.99]


def test_a_grid_has_every_combination_and_zip_pairs():
    grid = combine([RATE, GAMMA], "grid")
    assert len(grid) == 10
    assert len({tuple(setting.values()) for setting in grid}) == 10
    pairs = combine([GAMMA, Axis("hyperparams.clip_eps", (0.1, 0.2))], "zip")
    assert [tuple(setting.values()) for setting in pairs] == [(0.9, 0.1), (0.99, 0.2)]
    assert combine([], "grid") == [{}]


@pytest.mark.parametrize("method", ["random", "quasi_random"])
def test_samples_have_the_density_of_the_axis(method):
    """Half of the settings lie below the geometric mean, half have the first value of the list."""
    settings = combine([RATE, GAMMA], method, 2000)
    rates = np.array([setting[RATE.key] for setting in settings])
    assert rates.min() >= 1e-4
    assert rates.max() <= 1e-2
    assert np.mean(rates < 1e-3) == pytest.approx(0.5, abs=0.04)
    assert np.mean([setting[GAMMA.key] == 0.9 for setting in settings]) == pytest.approx(0.5, abs=0.04)
    assert combine([RATE], method, 5, seed=1) == combine([RATE], method, 9, seed=1)[:5]
    assert combine([RATE], method, 5, seed=1) != combine([RATE], method, 5, seed=2)


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_quasi_random_points_are_more_even_than_random_ones(dimensions):
    """The discrepancy at 500 corners: share of points below a corner, minus its volume."""
    rng = np.random.default_rng(0)
    corners = rng.random((500, dimensions))

    def discrepancy(points):
        inside = (points[:, None] < corners).all(-1).mean(0)
        return np.abs(inside - corners.prod(-1)).max()

    ours = np.mean([discrepancy(low_discrepancy(128, dimensions, seed)) for seed in range(8)])
    random = np.mean([discrepancy(rng.random((128, dimensions))) for _ in range(8)])
    assert ours < 0.6 * random


@pytest.mark.parametrize(
    ("given", "key", "kind"),
    [
        ([], "x", "range"),
        (3.0, "x", "type"),
        ({"low": 1.0}, "x", "missing"),
        ({"low": 2.0, "high": 1.0, "count": 3}, "x", "range"),
        ({"low": 0.0, "high": 1.0, "scale": "log", "count": 3}, "x.low", "range"),
        ({"low": 0.1, "high": 1.0, "scale": "lag", "count": 3}, "x.scale", "choice"),
        ({"low": 0.1, "high": 1.0}, "x.count", "missing"),
        ({"low": 0.1, "high": 1.0, "count": 2, "hihg": 2}, "x.hihg", "unknown"),
    ],
)
def test_a_wrong_axis_is_one_problem(given, key, kind):
    axis, problems = parse_axis("x", given, "grid")
    assert axis is None
    assert [(problem.key, problem.kind) for problem in problems] == [(key, kind)]
