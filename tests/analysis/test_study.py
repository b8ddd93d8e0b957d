"""A study ranks its settings, and its tables mark what a reader has to know."""

import numpy as np
from small_study import ARMS, GENERAL, STUDY, arm

from purejaxppo.analysis.statistics import FEW_SEEDS_NOTE, interquartile_mean, probability_of_improvement
from purejaxppo.analysis.study import Study, generalization_table, notes, rank, table_rows


def test_settings_are_ranked_and_failed_runs_are_the_worst():
    ranked = rank(STUDY, "Chain")
    assert [r.arm.label for r in ranked] == ["high_1", "broken", "low"]
    worst = min(np.nanmin(a.scores) for a in ARMS)
    assert ranked[1].scores[0] == worst
    assert ranked[1].spread.worst == worst
    assert ranked[0].interval.value == interquartile_mean(ARMS[1].scores)
    assert ranked[2].improvement == probability_of_improvement(ranked[0].scores, ranked[2].scores)


def test_settings_that_were_stopped_are_not_ranked():
    stopped = arm("stopped", 9.0, status=("stopped",) * 12)
    study = STUDY._replace(arms=(*STUDY.arms, stopped))
    assert [r.arm.label for r in rank(study, "Chain")] == ["high_1", "broken", "low"]
    assert any("1 setting(s) were stopped" in note for note in notes(study))


def test_few_seeds_are_marked_in_every_table():
    few = Study("few", (arm("a", 1.0, 5), arm("b", 2.0, 5)), {})
    assert FEW_SEEDS_NOTE in notes(few)
    assert all(row["seeds"] == "5*" and row["95 % interval"].endswith("*") for row in table_rows(rank(few, "Chain")))
    assert FEW_SEEDS_NOTE not in notes(STUDY)
    assert not any("*" in row["seeds"] for row in table_rows(rank(STUDY, "Chain")))


def test_scores_at_the_value_of_the_training_and_at_the_others_by_hand():
    usual, heavy = generalization_table(GENERAL)
    assert (usual["IQM at this value"], usual["IQM at other values"]) == ("9 [9, 9]", "1.5 [1.5, 1.5]")
    assert (heavy["IQM at this value"], heavy["IQM at other values"]) == ("3 [3, 3]", "8 [8, 8]")
    (unknown,) = generalization_table([GENERAL[0]._replace(trained=None)])
    assert list(unknown.values()) == ["usual", "unknown", "", ""]
    (drawn,) = generalization_table([GENERAL[0]._replace(trained_high=15.0)])
    assert list(drawn.values()) == ["usual", "9.8 to 15", "5.5 [5.5, 5.5]", "1 [1, 1]"]


def test_a_failed_run_is_the_worst_at_each_value():
    scores = np.array([[1.0, 90.0, 2.0]] * 11 + [[np.nan] * 3])
    failed = GENERAL[0]._replace(scores=scores)
    np.testing.assert_array_equal(failed.filled_scores, [[1.0, 90.0, 2.0]] * 12)
    (row,) = generalization_table([failed])
    assert row["IQM at this value"] == "90 [90, 90]"
