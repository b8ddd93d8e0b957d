"""`purejaxppo compare` ranks runs and sweeps."""

import pytest
from command_line import problems_of
from plain_runs import four_runs

from purejaxppo.cli.compare_command import MOST
from purejaxppo.cli.main import main


@pytest.fixture
def runs(tmp_path):
    return four_runs(tmp_path)


def test_compare_prints_the_ranking_and_writes_nothing(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert out.index("learning_rate=0.01 ") < out.index("learning_rate=0.001 ")
    assert "fewer than 10 seeds" in out
    assert {entry.name for entry in tmp_path.iterdir()} == {run.name for run in runs}


def test_the_columns_of_the_table_are_aligned(runs, capsys):
    main(["compare", *map(str, runs)])
    header, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("rank", "1", "2"))]
    assert len(rows) == 2
    for name in ("setting", "seeds", "IQM", "failed"):
        begin = header.index(name)
        assert all(row[begin - 1] == " " and row[begin] != " " for row in rows)


def test_compare_writes_a_report_if_a_folder_is_named(runs, tmp_path, capsys):
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "report")]) == 0
    assert "learning_rate=0.01" in (tmp_path / "report" / "report.md").read_text()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"kept in {tmp_path / 'report'}: ")
    assert last.endswith(", ".join(sorted(entry.name for entry in (tmp_path / "report").iterdir())))


def test_what_cannot_be_compared_is_a_problem(runs, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert problems_of("compare", runs[0], empty) == {(str(empty), "file")}
    assert problems_of("compare", runs[0]) == {("RUN", "missing")}
    assert problems_of("compare", *[runs[0]] * (MOST + 1)) == {("RUN", "range")}
