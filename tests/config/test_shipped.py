"""The files of configs/ are shipped, valid, and found by name or by environment."""

from collections import Counter

import pytest

from purejaxppo.config import shipped
from purejaxppo.config.shipped import PREFERRED, env_of, shipped_configs, shipped_sweeps, tuned_config
from purejaxppo.config.toml import load_toml

CONFIGS = shipped_configs()


def test_every_file_of_the_repository_is_there():
    folder = shipped.PACKAGE.parent / "configs"
    assert {*CONFIGS.values(), *shipped_sweeps().values()} == set(folder.rglob("*.toml"))
    assert CONFIGS["cartpole"] == folder / "cartpole.toml"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_file_is_valid_and_begins_with_a_description(name):
    assert load_toml(CONFIGS[name]).env == env_of(CONFIGS[name])
    assert CONFIGS[name].read_text().startswith("# ")


def test_an_environment_with_several_files_has_a_preferred_one():
    counts = Counter(env_of(file) for file in CONFIGS.values())
    assert {env for env, count in counts.items() if count > 1} == PREFERRED.keys()
    for env, name in PREFERRED.items():
        assert env_of(CONFIGS[name]) == env
        assert tuned_config(env) == CONFIGS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_environment_of_a_file_has_tuned_settings(name):
    env = env_of(CONFIGS[name])
    assert env_of(tuned_config(env)) == env


@pytest.mark.parametrize(("env", "name"), [("gymnax/CartPole-v1", "cartpole"), ("examples/Nim-v1", "nim_masked")])
def test_the_suite_of_an_id_may_be_named(env, name):
    assert tuned_config(env) == CONFIGS[name]


def test_the_same_id_of_another_suite_is_another_environment():
    assert tuned_config("brax/CartPole-v1") is None
    assert tuned_config("gymnasium/CartPole-v1") == CONFIGS["suites/gymnasium_cartpole"]
    assert tuned_config("CartPoll-v1") is None


def test_in_a_wheel_the_files_are_inside_of_the_package(monkeypatch, tmp_path):
    (tmp_path / "configs" / "suites").mkdir(parents=True)
    (tmp_path / "configs" / "suites" / "mine.toml").write_text('env = "x/Mine"')
    monkeypatch.setattr(shipped, "PACKAGE", tmp_path)
    assert shipped_configs() == {"suites/mine": tmp_path / "configs" / "suites" / "mine.toml"}
    assert tuned_config("x/Mine") == tmp_path / "configs" / "suites" / "mine.toml"
