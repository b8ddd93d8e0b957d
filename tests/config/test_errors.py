"""ConfigError lists its problems in the message and keeps them as data."""

from purejaxppo.config.errors import ConfigError, Problem

GAMMA = Problem("hyperparams.gamma", " = 2: must lie between 0 and 1", "range")
ENV = Problem("env", ": unknown environment", "environment")


def test_the_message_counts_and_lists_the_problems():
    error = ConfigError([GAMMA, ENV], "x.toml")
    assert error.problems == (GAMMA, ENV)
    assert str(error).splitlines() == ["x.toml: 2 problems", f"  {GAMMA}", f"  {ENV}"]
    assert str(GAMMA) == "hyperparams.gamma = 2: must lie between 0 and 1"


def test_without_a_source_the_message_speaks_of_the_settings():
    assert str(ConfigError([ENV])).splitlines()[0] == "1 problem in the settings"
    assert isinstance(ConfigError([ENV]), ValueError)
