"""The figures of a study show the numbers of its settings, read from their lines."""

import numpy as np
import pytest
from small_study import GENERAL, STUDY, VALUES

from purejaxppo.analysis.statistics import FEW_SEEDS_NOTE, curve_interval
from purejaxppo.analysis.study import rank
from purejaxppo.analysis.study_figures import (
    MOST_LINES,
    curves_figure,
    generalization_figure,
    profiles_figure,
    scores_figure,
    sensitivity_figure,
)

RANKED = rank(STUDY, "Chain")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_curves_are_the_interquartile_means_of_the_arms_in_their_order():
    (axes,) = curves_figure("Chain", RANKED).axes
    assert [line.get_label() for line in axes.lines] == ["high_1", "broken", "low"]
    for line, r in zip(axes.lines, RANKED, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), r.arm.timesteps)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), curve_interval(RANKED[0].arm.curves).value)
    assert FEW_SEEDS_NOTE not in texts(axes)


def test_more_settings_than_colors_are_left_out_and_a_long_name_is_shortened():
    long = RANKED[0]._replace(arm=RANKED[0].arm._replace(label="x" * 60))
    (axes,) = curves_figure("Chain", [long] * (MOST_LINES + 2)).axes
    assert len(axes.lines) == MOST_LINES
    assert axes.lines[0].get_label() == "x" * 43 + "…"


def test_without_an_episode_the_figure_says_so():
    nothing = [r._replace(arm=r.arm._replace(curves=np.full((12, 20), np.nan))) for r in RANKED]
    (axes,) = curves_figure("Chain", nothing).axes
    assert (len(axes.lines), texts(axes)) == (0, ["no episode finished"])


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    (axes,) = profiles_figure("Chain", RANKED, "evaluation").axes
    for line, r in zip(axes.lines, RANKED, strict=True):
        expected = (r.scores[:, None] > np.asarray(line.get_xdata())[None]).mean(0)
        np.testing.assert_allclose(line.get_ydata(), expected)
        assert (expected[0], expected[-1]) == (1.0, 0.0)


def test_the_scores_are_all_runs_and_the_probability_to_beat_the_best():
    left, right = scores_figure("Chain", RANKED, "evaluation").axes
    circles = [line for line in left.lines if line.get_marker() == "o"]
    for i, (line, r) in enumerate(zip(circles, RANKED, strict=True)):
        np.testing.assert_array_equal(line.get_xdata(), r.scores)
        np.testing.assert_array_equal(line.get_ydata(), i)
    marks = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "|"]
    assert marks == [r.improvement.value for r in RANKED[1:]]


def test_sensitivity_has_a_panel_for_each_hyperparameter_with_every_run():
    few = [r._replace(arm=r.arm._replace(seeds=(0, 1))) for r in RANKED]
    (axes,) = sensitivity_figure("Chain", few, ["learning_rate"], "evaluation").axes
    circles = [line for line in axes.lines if len(line.get_xdata()) == 12]
    assert [line.get_xdata()[0] for line in circles] == [1e-4, 1e-3, 1e-2]
    for line, label in zip(circles, ("low", "high_1", "broken"), strict=True):
        (r,) = (r for r in RANKED if r.arm.label == label)
        np.testing.assert_array_equal(line.get_ydata(), r.scores)
    np.testing.assert_array_equal(axes.lines[-1].get_xdata(), [1e-4, 1e-3, 1e-2])
    assert axes.lines[-1].get_ydata()[1] == RANKED[0].interval.value
    assert axes.get_xscale() == "log"
    assert texts(axes) == [FEW_SEEDS_NOTE]


def test_the_figure_shows_the_score_against_the_parameter_and_where_the_training_was():
    (axes,) = generalization_figure("Chain", GENERAL, "evaluation").axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(curves[0].get_xdata(), VALUES)
    np.testing.assert_allclose(curves[1].get_ydata(), [7.0, 9.0, 3.0])
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == [9.8, 15.0]
    assert "gravity" in axes.get_xlabel()


def test_the_interval_of_the_training_has_a_grey_shade_or_a_bar_for_each_line():
    drawn = [line._replace(trained_high=line.trained + 1.0) for line in GENERAL]
    (axes,) = generalization_figure("Chain", drawn, "evaluation").axes
    assert [patch.get_extents().height < 0.05 * axes.bbox.height for patch in axes.patches] == [True, True]
    (axes,) = generalization_figure("Chain", [drawn[0], drawn[0]], "evaluation").axes
    (patch,) = axes.patches
    assert patch.get_extents().height == pytest.approx(axes.bbox.height)
    assert "interval of the training" in axes.get_xlabel()
