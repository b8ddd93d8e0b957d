"""`purejaxppo envs` lists the ids that `make` accepts, with facts about each, and suites that are not installed."""

import os
import re
import sys

import pytest
from command_line import problems_of

from purejaxppo.cli.main import main
from purejaxppo.envs import registry
from purejaxppo.envs.errors import SUITES
from purejaxppo.envs.facts import recorded, recorded_ids


def lines_of(capsys, *args) -> list[str]:
    assert main(["envs", *args]) == 0
    return capsys.readouterr().out.splitlines()


def on_terminal(monkeypatch, columns: int) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))


@pytest.fixture
def only_gymnax(monkeypatch):
    monkeypatch.setattr(registry, "installed", lambda suite: suite in ("gymnax", "examples"))


def test_every_environment_is_listed_once_by_its_suite(capsys):
    lines = lines_of(capsys)
    ids = [line.split("\t")[0] for line in lines]
    assert len(ids) == len(set(ids))
    assert {id.partition("/")[0] for id in ids} == set(SUITES)
    assert lines_of(capsys, "gymnax") == [line for line in lines if line.startswith("gymnax/")]


def test_a_line_has_the_recorded_facts(capsys):
    row = recorded()["gymnax/CartPole-v1"]
    fields = next(line for line in lines_of(capsys, "gymnax") if line.startswith("gymnax/CartPole-v1\t")).split("\t")
    size = str(row.state_bytes + row.observation_bytes)
    assert fields == ["gymnax/CartPole-v1", "float32[4]", "Discrete(2)", "500", size, "", ""]


def test_a_suite_that_is_not_installed_is_listed_with_its_command(capsys, only_gymnax):
    lines = lines_of(capsys, "brax")
    assert [line.split("\t")[0] for line in lines] == [f"brax/{name}" for name in recorded_ids("brax")]
    assert {line.split("\t")[-1] for line in lines} == {"pip install 'purejaxppo[brax]'"}
    assert {line.split("\t")[-1] for line in lines_of(capsys, "gymnax")} == {""}


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_fits_the_terminal(capsys, monkeypatch, only_gymnax, columns):
    on_terminal(monkeypatch, columns)
    lines = lines_of(capsys)
    assert max(map(len, lines)) <= columns
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert len(titles) == len(SUITES)
    assert f"brax: {len(recorded_ids('brax'))} environments, not installed: pip install 'purejaxppo[brax]'" in titles
    rows = [row for rows in registry.known().values() for row in rows]
    assert [line.split()[0] for line in lines if re.match(r"  \S", line)].count("id") == len(SUITES)
    text = "".join("".join(lines).split())
    assert all("".join(row.observation.split()) in text for row in rows)


def test_one_environment_is_described_in_full(capsys, only_gymnax):
    row = recorded()["pgx/chess"]
    assert lines_of(capsys, "pgx/chess") == [
        "pgx/chess",
        f"  observation  {row.observation}",
        f"  actions      {row.action}",
        "  time limit   none",
        f"  memory       {row.state_bytes} bytes of state, {row.observation_bytes} bytes of observation",
        "  install      pip install 'purejaxppo[pgx]'",
    ]
    assert lines_of(capsys, "CartPole-v1")[0] == "gymnax/CartPole-v1"


def test_an_environment_that_is_not_recorded_is_measured(capsys, monkeypatch):
    described = lines_of(capsys, "examples/King-v1")
    rows = {name: row for name, row in recorded().items() if name != "examples/King-v1"}
    monkeypatch.setattr(registry, "recorded", lambda: rows)
    assert lines_of(capsys, "examples/King-v1") == described


def test_an_unknown_name_is_one_problem():
    assert problems_of("envs", "gymnaz") == {("gymnaz", "choice")}
    assert problems_of("envs", "brax/antt") == {("brax/antt", "choice")}
    assert problems_of("envs", "CartPole-v7") == {("CartPole-v7", "choice")}
