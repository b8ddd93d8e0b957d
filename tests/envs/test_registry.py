"""Environments are found by id, with and without their suite; an unknown id gets a helpful error."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from purejaxppo.envs import registry
from purejaxppo.envs.errors import SUITES, MissingSuite, UnknownEnvironment
from purejaxppo.envs.registry import available, make
from purejaxppo.envs.spaces import Discrete

ROOT = Path(__file__).parents[2]


def test_names_work_with_and_without_their_suite() -> None:
    with_suite, without = make("gymnax/MountainCar-v0"), make("MountainCar-v0")
    assert with_suite.observation_space == without.observation_space
    assert with_suite.action_space == without.action_space == Discrete(3)
    assert (with_suite.name, without.name) == ("gymnax/MountainCar-v0", "MountainCar-v0")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("CartPole-v0", "CartPole-v1"),
        ("cartpole", "CartPole-v1"),
        ("gymnax/Breakout", "gymnax/Breakout-MinAtar"),
        ("gymnx/CartPole-v1", "gymnax/CartPole-v1"),
        ("gymnax/CartPolePositions-v1", "gymnax/CartPole-v1"),
    ],
)
def test_an_unknown_environment_names_similar_ones(name: str, near: str) -> None:
    with pytest.raises(UnknownEnvironment, match=f"unknown environment {name!r}; similar: {near}"):
        make(name)


@pytest.mark.parametrize("name", ["LunarLander-v2", "", "gymnax/", "gymnax/Humanoid-v4", "nosuite/Thing", 3, None])
def test_without_a_similar_id_nothing_is_suggested(name: Any) -> None:
    with pytest.raises(UnknownEnvironment) as error:
        make(name)
    assert "similar" not in str(error.value)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite not in ("gymnax", "examples")])
def test_a_suite_that_is_not_installed_says_what_to_install(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda suite: suite in ("gymnax", "examples"))
    with pytest.raises(
        MissingSuite, match=rf"the suite '{suite}' needs the package .*: pip install 'purejaxppo\[{suite}\]'"
    ):
        make(f"{suite}/any")
    assert suite not in available()


def test_an_id_of_a_suite_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SimpleNamespace(ids=lambda: ("Ant-v9",))
    real = registry._adapter
    monkeypatch.setattr(registry, "installed", lambda suite: suite in ("gymnax", "examples"))
    monkeypatch.setattr(registry, "has_adapter", lambda suite: suite in ("gymnax", "examples", "brax"))
    monkeypatch.setattr(registry, "_adapter", lambda suite: adapter if suite == "brax" else real(suite))
    with pytest.raises(MissingSuite, match=r"pip install 'purejaxppo\[brax\]'"):
        make("Ant-v9")
    with pytest.raises(UnknownEnvironment):
        make("Ant-v8")


def test_without_gymnax_its_ids_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda suite: False)
    monkeypatch.setattr(registry, "has_adapter", lambda suite: False)
    for name in ("gymnax/CartPole-v1", "CartPole-v1"):
        with pytest.raises(MissingSuite, match=r"needs the package gymnax: pip install 'gymnax>=1\.0\.1' six"):
            make(name)
    assert available() == {}


def test_a_suite_without_an_adapter_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda suite: suite in ("gymnax", "brax"))
    monkeypatch.setattr(registry, "has_adapter", lambda suite: suite == "gymnax")
    assert list(available()) == ["gymnax"]
    with pytest.raises(UnknownEnvironment, match="unknown environment 'brax/ant'"):
        make("brax/ant")


def test_nothing_imports_gymnax_before_an_environment_is_made() -> None:
    code = (
        "import sys, purejaxppo, purejaxppo.envs\n"
        "assert len(purejaxppo.envs.available()['gymnax']) > 20\n"
        "try: purejaxppo.envs.make('CartPole-v2')\n"
        "except purejaxppo.envs.UnknownEnvironment: pass\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'gymnax'], 'gymnax was imported'\n"
        "purejaxppo.envs.make('CartPole-v1')\n"
        "assert 'gymnax' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
