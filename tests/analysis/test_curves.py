"""The curve shows the numbers of the run, and all of them."""

import itertools

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from purejaxppo.analysis.curves import BAND, LINE, MARK, MAX_POINTS, MIN_EPISODES, learning_curve, plot_curve, time_unit


def metrics(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mean = np.cumsum(rng.normal(1.0, 3.0, n))
    episodes = rng.integers(0, 4, n).astype(float)
    mean = np.where(episodes > 0, mean, np.nan)
    return {
        "timesteps": np.arange(1, n + 1) * 100.0,
        "wall_time": 7.0 + np.arange(1, n + 1) * 0.1,
        "num_episodes": episodes,
        "episode_return_mean": mean,
        "episode_return_min": mean - 5.0,
        "episode_return_max": mean + 9.0,
    }


def has_color(path, color: str) -> bool:
    picture = matplotlib.image.imread(path)[..., :3]
    return bool((np.abs(picture - np.array(matplotlib.colors.to_rgb(color))).max(axis=-1) < 0.02).any())


def test_a_short_curve_is_shown_as_it_is():
    m = metrics(50)
    m["num_episodes"] *= 100
    some = m["num_episodes"] > 0
    curve = learning_curve(m)
    for name, column in [("mean", "episode_return_mean"), ("min", "episode_return_min"), ("timesteps", "timesteps")]:
        np.testing.assert_allclose(curve[name], m[column][some], rtol=1e-12)


@pytest.mark.parametrize("n", [3, 40, 5000])
def test_points_share_out_all_episodes(n):
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
        assert curve["wall_time"][at] == m["wall_time"][end - 1]
    assert not m["num_episodes"][ends[-1] :].any()


def test_picture_holds_line_band_and_evaluation(tmp_path):
    plot_curve(tmp_path / "with.png", metrics(100), "CartPole-v1", evaluation=100.0)
    plot_curve(tmp_path / "without.png", metrics(100), "CartPole-v1")
    assert has_color(tmp_path / "with.png", LINE)
    assert has_color(tmp_path / "with.png", MARK)
    assert not has_color(tmp_path / "without.png", MARK)
    assert matplotlib.image.imread(tmp_path / "with.png").shape[:2] == (540, 1320)
    assert len({entry.name for entry in tmp_path.iterdir()}) == 2


def test_band_reaches_from_lowest_to_highest(tmp_path):
    m = metrics(100)
    wide = m | {"episode_return_max": m["episode_return_max"] + 1000.0}
    band = np.array(matplotlib.colors.to_rgb(BAND)) * 0.45 + 0.55

    def share(values) -> float:
        plot_curve(tmp_path / "band.png", values, "x")
        picture = matplotlib.image.imread(tmp_path / "band.png")[..., :3]
        return float((np.abs(picture - band).max(axis=-1) < 0.02).mean())

    assert share(wide) > 3 * share(m) > 0


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_runs_with_few_or_no_episodes_have_a_picture_too(tmp_path, n):
    m = metrics(n)
    plot_curve(tmp_path / "few.png", m | {"num_episodes": np.zeros(n)}, "no episode")
    assert not has_color(tmp_path / "few.png", LINE)
    plot_curve(tmp_path / "few.png", m | {"num_episodes": np.ones(n), "episode_return_mean": np.ones(n)}, "few")
    assert has_color(tmp_path / "few.png", LINE) == (n > 0)


def test_time_units_keep_numbers_small():
    assert [time_unit(s)[1] for s in (1, 299, 301, 10_000, 20_000)] == ["seconds"] * 2 + ["minutes"] * 2 + ["hours"]
