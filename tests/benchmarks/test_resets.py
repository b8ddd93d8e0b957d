"""The table of resets has the recorded memory, and times."""

import pytest
from command_line import ROOT
from scripts import load_script

from purejaxppo.envs import make
from purejaxppo.envs.facts import recorded


@pytest.fixture(scope="module")
def resets():
    return load_script(ROOT / "benchmarks" / "resets.py")


def test_all_environments_of_the_table_are_recorded(resets):
    assert set(resets.IDS) <= set(recorded())


def test_a_row_has_the_reset_mode_and_the_recorded_memory(resets, monkeypatch):
    monkeypatch.setattr(resets, "measure", lambda env: resets.Cost(2.0, 4.0, 0.5))
    facts = recorded()["gymnax/CartPole-v1"]
    memory = f"{facts.state_bytes} | {facts.observation_bytes}"
    assert resets.row("gymnax/CartPole-v1") == f"| gymnax/CartPole-v1 | fresh | 2.00 | 4.00 | 0.5 | {memory} |"


def test_all_costs_are_positive(resets):
    assert min(resets.measure(make("gymnax/CartPole-v1"), num_envs=4, rounds=3)) > 0.0
