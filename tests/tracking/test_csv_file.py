"""Rows of a run have correct times, and every number survives the file."""

from typing import NamedTuple

import numpy as np

from purejaxppo.tracking.csv_file import read_csv, rows_of
from purejaxppo.tracking.metrics_file import metrics_file


class FakeMetrics(NamedTuple):
    kl: np.ndarray
    episode_return_mean: np.ndarray


def metrics(n: int, seed: int = 0) -> FakeMetrics:
    rng = np.random.default_rng(seed)
    return FakeMetrics(rng.normal(size=n).astype(np.float32), rng.lognormal(0, 20, n).astype(np.float32))


def test_a_chunk_shares_its_time_equally_and_counts_on():
    rows = rows_of(metrics(4), first_update=10, timesteps_per_update=256, started=3.0, ended=5.0)
    assert [row["timesteps"] for row in rows] == [11 * 256, 12 * 256, 13 * 256, 14 * 256]
    assert [row["wall_time"] for row in rows] == [3.5, 4.0, 4.5, 5.0]
    assert list(rows[0]) == ["timesteps", "wall_time", "kl", "episode_return_mean"]
    assert [row["kl"] for row in rows] == [float(x) for x in metrics(4).kl]


def test_every_float32_survives_the_file(tmp_path):
    written = metrics(200)
    with metrics_file(tmp_path / "m.csv") as file:
        file.write(rows_of(written, 0, 2**20, 0.0, 1.0))
        file.write([])
        file.write(rows_of(metrics(3, seed=1), 200, 2**20, 1.0, 2.0))
    columns = read_csv(tmp_path / "m.csv")
    assert len(columns["kl"]) == 203
    for name in FakeMetrics._fields:
        assert np.array_equal(columns[name][:200].astype(np.float32), getattr(written, name))
    assert columns["timesteps"].tolist() == [2**20 * i for i in range(1, 204)]


def test_nan_and_infinity_survive_the_file(tmp_path):
    with metrics_file(tmp_path / "m.csv") as file:
        file.write([{"a": float("nan"), "b": float("inf"), "c": -0.5}])
    columns = read_csv(tmp_path / "m.csv")
    assert np.isnan(columns["a"][0])
    assert columns["b"][0] == np.inf
    assert columns["c"][0] == -0.5


def test_rows_are_on_disk_as_soon_as_written(tmp_path):
    with metrics_file(tmp_path / "m.csv") as file:
        for i in range(3):
            file.write([{"a": i}])
            assert read_csv(tmp_path / "m.csv")["a"].tolist() == list(range(i + 1))


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "m.csv").write_text("a,b\n1,2\n3")
    assert read_csv(tmp_path / "m.csv")["a"].tolist() == [1.0]


def test_an_empty_file_has_no_columns(tmp_path):
    (tmp_path / "m.csv").write_text("")
    assert read_csv(tmp_path / "m.csv") == {}


class EpisodeMetrics(NamedTuple):
    kl: np.ndarray
    num_episodes: np.ndarray
    episode_return_mean: np.ndarray
    episode_length_max: np.ndarray


def test_statistics_of_no_episodes_are_unknown_not_zero():
    """In the program they are 0, because it avoids NaN."""
    chunk = EpisodeMetrics(np.zeros(2), np.array([0.0, 2.0]), np.array([0.0, 0.0]), np.array([0.0, 5.0]))
    none, two = rows_of(chunk, 0, 8, 0.0, 1.0)
    assert np.isnan([none["episode_return_mean"], none["episode_length_max"]]).all()
    assert (none["kl"], none["num_episodes"]) == (0.0, 0.0)
    assert (two["episode_return_mean"], two["episode_length_max"]) == (0.0, 5.0)
