"""Recorded facts about environments."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from purejaxppo.envs import make
from purejaxppo.envs.errors import SUITES
from purejaxppo.envs.facts import all_rows, facts_of, in_words, recorded, recorded_ids
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box


def test_each_environment_is_recorded_once() -> None:
    rows, keys = recorded(), [(row.suite, row.id, since) for row, since in all_rows()]
    assert len(set(keys)) == len(keys)
    assert rows.keys() <= {f"{suite}/{name}" for suite, name, _ in keys}
    assert all(name == f"{row.suite}/{row.id}" for name, row in rows.items())


@pytest.mark.parametrize(
    ("installed", "clock", "newest"),
    [("0.7.4", 100, False), ("4.0.0", 256, True), ("4.1", 256, True), ("", 100, False)],
)
def test_facts_are_those_of_the_installed_version_of_a_suite(monkeypatch, installed, clock, newest) -> None:
    """NAVIX 4 has the clocks of MiniGrid, and more environments."""

    def version(project: str) -> str:
        if not installed:
            raise importlib.metadata.PackageNotFoundError(project)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    rows = recorded.__wrapped__()
    assert rows["navix/Navix-DoorKey-8x8-v0"].time_limit == clock
    assert ("navix/Navix-Unlock-v0" in rows) is newest


def test_ids_need_no_package() -> None:
    code = (
        "import sys; from purejaxppo.envs.suites import pgx, xland\n"
        "assert 'tic_tac_toe' in pgx.ids() and 'MiniGrid-DoorKey-5x5' in xland.ids()\n"
        "assert not {'pgx', 'xminigrid'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_only_suites_are_recorded() -> None:
    assert {row.suite for row in recorded().values()} <= set(SUITES)
    assert recorded_ids("no such suite") == ()


@pytest.mark.parametrize(
    "name", ["gymnax/CartPole-v1", "gymnax/Breakout-MinAtar", "examples/Nim-v1", "examples/King-v1"]
)
def test_the_record_is_what_the_environment_has(name: str) -> None:
    assert facts_of(make(name)) == recorded()[name]


def test_bytes_are_those_of_the_arrays() -> None:
    """CartPole's state is four float32 and the time, its observation four float32."""
    facts = facts_of(make("gymnax/CartPole-v1"))
    assert (facts.state_bytes, facts.observation_bytes, facts.time_limit) == (20, 16, 500)


def test_spaces_in_words() -> None:
    assert in_words({"b": Discrete(3), "a": box(0, 1, (2, 3))}) == "{a: float32[2, 3], b: Discrete(3)}"
    assert in_words((MultiDiscrete((2, 5)), MultiDiscrete((3,) * 7))) == "(MultiDiscrete(2, 5), MultiDiscrete(3 x 7))"
    assert in_words(box(0, 255, (8, 8, 3), "uint8", pixels=True)) == "pixels[8, 8, 3]"
    assert in_words(box(0, 9, (8,), "uint8", codes=True)) == "symbols[8]"
