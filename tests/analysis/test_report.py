"""A report shows every number that a reviewer asks for, as a page, as Markdown and as LaTeX."""

import re

import numpy as np
import pytest
from PIL import Image
from small_study import ARMS, GENERAL, STUDY

from purejaxppo.analysis.report import write_report
from purejaxppo.analysis.statistics import interquartile_mean
from purejaxppo.analysis.study import rank


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


def test_the_report_has_a_table_and_a_figure_of_each_parameter(tmp_path):
    other = GENERAL[1]._replace(label="long", parameter="length", trained=5.0)
    write_report(STUDY._replace(generalization=(*GENERAL, other)), tmp_path)
    text = (tmp_path / "report.md").read_text()
    gravity, length = text.split("Score at values of gravity:")[1].split("Score at values of length:")
    assert "| heavy | 15 | 3 [3, 3] | 8 [8, 8] |" in gravity
    assert "| long | 5 | 7 [7, 7] | 6 [6, 6] |" in length
    assert "long" not in gravity
    page = (tmp_path / "index.html").read_text()
    assert page.index("Score at values of gravity:") < page.index("heavy") < page.index("Score at values of length:")
    for parameter in ("gravity", "length"):
        assert (tmp_path / f"00-generalization-{parameter}.png").is_file()


def test_runs_in_which_no_episode_finished_have_a_report(tmp_path):
    nothing = np.full((12, 20), np.nan)
    study = STUDY._replace(arms=tuple(a._replace(curves=nothing, areas=nothing[:, 0]) for a in STUDY.arms))
    assert [r.arm.label for r in rank(study, "Chain")] == ["high_1", "broken", "low"]
    write_report(study, tmp_path)
    assert (tmp_path / "00-curves.png").is_file()
