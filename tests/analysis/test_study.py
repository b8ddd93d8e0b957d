"""A study ranks its settings, and its tables mark what a reader has to know."""

import numpy as np
from small_study import ARMS, GENERAL, STUDY, arm

from purejaxppo.analysis.statistics import FEW_SEEDS_NOTE, interquartile_mean, probability_of_improvement
from purejaxppo.analysis.study import Study, generalization_rows, notes, rank, table_rows


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


def test_scores_inside_and_outside_of_the_training_by_hand():
    """Inside is the value of the training, or its interval: 9, and (7 + 9) / 2; outside (1 + 2) / 2, and 3."""
    fixed, random = generalization_rows(GENERAL)
    assert (fixed["IQM inside"], fixed["IQM outside"]) == ("9 [9, 9]", "1.5 [1.5, 1.5]")
    assert (random["IQM inside"], random["IQM outside"]) == ("8 [8, 8]", "3 [3, 3]")
    (unknown,) = generalization_rows([GENERAL[0]._replace(trained=None)])
    assert (unknown["trained with"], unknown["IQM inside"]) == ("unknown", "")
