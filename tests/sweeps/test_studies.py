"""Results folders are read as they were written: sweeps, and plain runs grouped by their settings."""

import numpy as np
import pytest
from plain_runs import four_runs, plain_run

from purejaxppo.config.errors import ConfigError
from purejaxppo.sweeps.studies import read_study


@pytest.fixture
def runs(tmp_path):
    return four_runs(tmp_path)


def test_runs_that_differ_in_their_seed_are_one_setting(runs):
    study = read_study(runs)
    assert [(a.label, a.seeds) for a in study.arms] == [("learning_rate=0.001", (0, 1)), ("learning_rate=0.01", (0, 1))]
    np.testing.assert_array_equal(study.arms[1].scores, [30.0, 34.0])
    np.testing.assert_allclose(study.arms[0].curves[:, -1], [10.0, 12.0])
    np.testing.assert_allclose(study.arms[0].curves[0, study.arms[0].timesteps == 500], 5.0)


def test_a_run_that_failed_counts_as_failed(runs, tmp_path):
    study = read_study([*runs, plain_run(tmp_path / "bad", 2, 1e-3, 9.0, "diverged")])
    assert study.arms[0].status == ("finished", "finished", "failed")
    assert np.isnan(study.arms[0].scores[2])


@pytest.mark.parametrize("file", ["", "sweep.json"])
def test_a_folder_without_results_is_a_problem(runs, tmp_path, file):
    """Neither an empty folder nor an unfinished sweep has results."""
    empty = tmp_path / "empty"
    empty.mkdir()
    if file:
        (empty / file).write_text("{}")
    with pytest.raises(ConfigError, match="empty") as caught:
        read_study([runs[0], empty])
    assert [(problem.key, problem.kind) for problem in caught.value.problems] == [(str(empty), "file")]
