"""Recorded facts about environments."""

import subprocess
import sys
from pathlib import Path

import pytest

from purejaxppo.envs import make
from purejaxppo.envs.errors import SUITES
from purejaxppo.envs.facts import facts_of, in_words, recorded, recorded_ids
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box


def test_each_environment_is_recorded_once() -> None:
    rows = recorded()
    lines = (Path(__file__).parents[2] / "purejaxppo" / "envs" / "facts.csv").read_text().splitlines()
    assert len(rows) == len(lines) - 1
    assert all(name == f"{row.suite}/{row.id}" for name, row in rows.items())


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
