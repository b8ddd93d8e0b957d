"""Settings come from a file, a shipped name or an environment, and options are laid over them."""

import math

import pytest
from command_line import ROOT, TINY

from purejaxppo.cli import run_settings
from purejaxppo.cli.run_settings import default_run, find_settings, overlay, prepare_for, read_interval
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Config, Run
from purejaxppo.config.toml import parse_tables
from purejaxppo.training.intervals import DEFAULT_INTERVAL, Interval


def test_a_config_is_a_file_a_shipped_name_or_an_environment(tiny, tmp_path):
    assert find_settings(str(tiny)) == (TINY, str(tiny))
    (tmp_path / "bare").write_text(TINY)
    assert find_settings(str(tmp_path / "bare")) == (TINY, str(tmp_path / "bare"))
    text = (ROOT / "configs" / "pendulum_tanh.toml").read_text()
    assert find_settings("pendulum_tanh")[0] == text
    assert parse_tables(find_settings("CartPole-v1")[0]) == parse_tables(
        (ROOT / "configs" / "cartpole.toml").read_text()
    )
    with pytest.raises(ConfigError, match=r"none\.toml"):
        find_settings(str(tmp_path / "none.toml"))


def test_an_environment_with_its_suite_keeps_its_id():
    tables = parse_tables(find_settings("gymnax/CartPole-v1")[0])
    assert tables == parse_tables(find_settings("CartPole-v1")[0]) | {"env": "gymnax/CartPole-v1"}


def test_an_environment_without_tuned_settings_has_the_defaults():
    assert parse_tables(find_settings('Odd"Env\\-v1')[0]) == {"env": 'Odd"Env\\-v1'}
    assert find_settings("") == ("", "train")


def test_options_replace_the_file_key_by_key():
    file = {"env": "A", "config": {"num_envs": 2, "num_steps": 4}}
    options = {"seed": 3, "config": {"num_envs": 8}, "network": {"kind": "gru"}}
    assert overlay(file, options) == {
        "env": "A",
        "seed": 3,
        "config": {"num_envs": 8, "num_steps": 4},
        "network": {"kind": "gru"},
    }


def test_laying_over_changes_neither_argument():
    file, options = {"config": {"num_envs": 2}}, {"config": {"num_envs": 8}}
    overlay(file, options)
    assert (file, options) == ({"config": {"num_envs": 2}}, {"config": {"num_envs": 8}})
    assert overlay(file, {}) == file
    assert overlay({}, options) == options


def test_the_defaults_that_help_shows_are_those_of_the_config(tiny):
    run = default_run(str(tiny), {"config": {"num_steps": 32}, "seed": 5})
    assert (run.config.num_envs, run.config.num_steps, run.seed) == (8, 32, 5)
    assert default_run("", {}) == Run()


@pytest.mark.parametrize(
    ("text", "interval"), [("500", Interval(updates=500)), ("90s", Interval(seconds=90.0)), ("off", Interval(math.inf))]
)
def test_an_interval_is_read(text, interval):
    assert read_interval(text) == (interval, [])


def test_an_invalid_interval_is_a_problem_of_its_option():
    interval, (problem,) = read_interval("5 parsecs")
    assert interval == DEFAULT_INTERVAL
    assert (problem.key, problem.kind) == ("--checkpoint-every", "type")
    assert "'5 parsecs'" in str(problem)


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({}, (16, 1, None)),
        ({"num_devices": 2}, (16, None, None)),
        ({"num_minibatches": 0}, "unknown"),
        ({"num_envs": "many"}, "unknown"),
    ],
)
def test_the_cpu_is_prepared_for_a_minibatch_and_without_a_size_for_invalid_settings(monkeypatch, changes, given):
    asked = []
    monkeypatch.setattr("purejaxppo.devices.cpu.prepare_cpu", lambda *args, **kwargs: asked.append((args, kwargs)))
    config = Config(**({"num_envs": 8, "num_steps": 4, "num_minibatches": 2, "num_devices": 1} | changes))
    prepare_for(Run(config=config), fast_flags=False)
    assert asked == [((), {"fast_flags": None}) if given == "unknown" else (given, {})]


def test_before_compiling_the_cache_is_chosen_and_then_what_is_loaded_is_not_collected(monkeypatch):
    done = []
    monkeypatch.setattr(run_settings, "use_compile_cache", lambda: done.append("cache"))
    monkeypatch.setattr(run_settings.gc, "freeze", lambda: done.append("freeze"))
    run_settings.prepare_compilation()
    assert done == ["cache", "freeze"]


def test_a_misspelled_config_of_a_folder_is_an_error_with_the_nearest_ones():
    with pytest.raises(ConfigError, match="unknown config; similar: suites/jaxmarl_overcooked,"):
        find_settings("suites/jaxmarl_overcook")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("cartpol_kl", "cartpol_kl (default settings; similar config: cartpole_kl)"),
        ("tabular", "tabular (default settings)"),
        ("CartPole-v9", "CartPole-v9 (default settings)"),
    ],
)
def test_the_config_that_a_misspelled_name_may_mean_is_named_with_the_settings(name, source):
    assert find_settings(name) == (f'env = "{name}"', source)
