"""`purejaxppo report` writes the report of runs and sweeps."""

import pytest
from command_line import problems_of
from plain_runs import four_runs

from purejaxppo.cli.main import main


@pytest.fixture
def runs(tmp_path):
    return four_runs(tmp_path)


def test_the_report_is_beside_the_results_unless_a_folder_is_named(runs, capsys):
    assert main(["report", *map(str, runs), "--title", "Four runs"]) == 0
    text = (runs[0] / "report" / "report.md").read_text()
    assert text.startswith("# Four runs\n")
    printed, _, last = capsys.readouterr().out.strip().rpartition("\n")
    assert text.startswith(printed.strip())
    assert "All scores" not in printed
    assert last.startswith(f"kept in {runs[0] / 'report'}: ")
    assert "index.html" in last


def test_a_named_folder_has_the_report_of_all_runs(runs, tmp_path):
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "report")]) == 0
    assert {entry.name for entry in runs[0].iterdir()} == {entry.name for entry in runs[1].iterdir()}
    text = (tmp_path / "report" / "report.md").read_text()
    assert "- learning_rate=0.001: 0: 10, 1: 12" in text
    assert "- learning_rate=0.01: 0: 30, 1: 34" in text


def test_what_has_no_report_is_a_problem(runs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problems_of("report") == {("DIR", "missing")}
    assert problems_of("report", empty) == {(str(empty), "file")}
    assert problems_of("report", runs[0], empty) == {(str(empty), "file")}
    (empty / "sweep.json").write_text("{}")
    assert problems_of("report", empty) == {(str(empty), "file")}
    file = tmp_path / "file"
    file.write_text("")
    assert problems_of("report", runs[0], "--out", file) == {("--out", "file")}
