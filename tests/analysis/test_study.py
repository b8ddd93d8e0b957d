"""A study ranks its settings; its report shows every number that a reviewer asks for."""

import re

import numpy as np
import pytest
from PIL import Image

from purejaxppo.analysis.report import write_report
from purejaxppo.analysis.statistics import FEW_SEEDS_NOTE, interquartile_mean, probability_of_improvement
from purejaxppo.analysis.study import Arm, Generalization, Study, generalization_rows, notes, rank, table_rows
from purejaxppo.analysis.study_figures import generalization_figure


def arm(label, level, seeds=12, task="Chain", status=(), is_test=False, rate=1e-3):
    rng = np.random.default_rng(int(10 * level) + 7 * is_test)
    scores = level + rng.normal(size=seeds)
    status = status or ("finished",) * seeds
    scores = np.where(np.array(status) == "finished", scores, np.nan)
    steps = np.linspace(1000, 20_000, 20)
    curves = scores[:, None] * np.linspace(0.1, 1.0, 20)
    first = 100 if is_test else 0
    seed_numbers = tuple(range(first, first + seeds))
    return Arm(
        label, task, seed_numbers, scores, steps, curves, curves.mean(1), status, {"learning_rate": rate}, is_test
    )


FAILED = ("failed", *["finished"] * 11)
ARMS = (arm("low", 1.0, rate=1e-4), arm("high_1", 5.0), arm("broken", 3.0, status=FAILED, rate=1e-2))
STUDY = Study(
    "A study", (*ARMS, arm("high_1", 4.5, 16, is_test=True)), {"command": "purejaxppo sweep x", "device": "cpu"}
)


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(STUDY, folder)
    return folder


def test_the_report_has_every_score_and_the_test_of_the_winner(folder):
    text = (folder / "report.md").read_text()
    for a in ARMS:
        for seed, score in zip(a.seeds, a.scores, strict=True):
            assert (f"{seed}: {score:.4g}" in text) or np.isnan(score)
    assert "0: failed" in text
    tested = STUDY.arms[-1]
    gap = interquartile_mean(ARMS[1].scores) - interquartile_mean(tested.scores)
    assert f"16 fresh seeds: IQM {interquartile_mean(tested.scores):.4g}" in text
    assert f"optimism {gap:.4g}" in text
    assert "command: purejaxppo sweep x" in text
    assert "1 run(s) failed" in text


def test_the_page_contains_its_figures(folder):
    page = (folder / "index.html").read_text()
    assert len(re.findall('src="data:image/png;base64,', page)) == 4
    assert "http" not in page
    assert "<script" not in page
    for file in folder.glob("*.png"):
        image = np.asarray(Image.open(file).convert("L"))
        assert (image < 200).mean() > 0.003, "ink"
    assert {file.name[3:-4] for file in folder.glob("*.png")} == {"curves", "profiles", "scores", "sensitivity"}


def test_latex_escapes_what_is_special(folder):
    text = (folder / "table.tex").read_text()
    assert r"high\_1" in text
    assert r"95 \% interval" in text
    body = text.replace(r"\%", "").replace(r"\_", "")
    assert not re.search(r"(?<!\\)[%_#]", body)
    assert text.count(r"\\") == 4


GENERAL = (
    Generalization(
        "fixed", "Chain", "gravity", np.array([5.0, 9.8, 15.0]), np.array([[1.0, 9.0, 2.0]] * 12), (9.8, 9.8)
    ),
    Generalization(
        "random", "Chain", "gravity", np.array([5.0, 9.8, 15.0]), np.array([[7.0, 9.0, 3.0]] * 12), (5.0, 10.0)
    ),
)


def test_scores_inside_and_outside_of_the_training_by_hand():
    """Inside is the value of the training, or its interval: 9, and (7 + 9) / 2; outside (1 + 2) / 2, and 3."""
    fixed, random = generalization_rows(GENERAL)
    assert (fixed["IQM inside"], fixed["IQM outside"]) == ("9 [9, 9]", "1.5 [1.5, 1.5]")
    assert (random["IQM inside"], random["IQM outside"]) == ("8 [8, 8]", "3 [3, 3]")
    (unknown,) = generalization_rows([GENERAL[0]._replace(trained=None)])
    assert (unknown["trained with"], unknown["IQM inside"]) == ("unknown", "")


def test_the_figure_shows_the_score_against_the_parameter_and_where_the_training_was():
    (axes,) = generalization_figure("Chain", GENERAL, "evaluation").axes
    curves = [line for line in axes.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(curves[0].get_xdata(), [5.0, 9.8, 15.0])
    np.testing.assert_allclose(curves[1].get_ydata(), [7.0, 9.0, 3.0])
    assert [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2] == [9.8]
    spans = [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
    assert [(span.x0, span.x1) for span in spans] == [pytest.approx((5.0, 10.0))]
    assert "gravity" in axes.get_xlabel()


def test_the_report_has_the_table_of_other_values(tmp_path):
    write_report(STUDY._replace(generalization=GENERAL), tmp_path)
    assert "| random | 5 to 10 | 8 [8, 8] | 3 [3, 3] |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "00-generalization.png").is_file()


def test_runs_in_which_no_episode_finished_have_a_report(tmp_path):
    nothing = np.full((12, 20), np.nan)
    study = STUDY._replace(arms=tuple(a._replace(curves=nothing, areas=nothing[:, 0]) for a in STUDY.arms))
    assert [r.arm.label for r in rank(study, "Chain")] == ["high_1", "broken", "low"]
    write_report(study, tmp_path)
    assert (tmp_path / "00-curves.png").is_file()
