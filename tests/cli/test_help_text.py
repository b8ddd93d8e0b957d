"""Help texts: complete, within the width, with the defaults of the settings."""

import pytest

from purejaxppo.cli.commands import COMMANDS
from purejaxppo.cli.help_text import command_help, general_help
from purejaxppo.cli.options import options_of
from purejaxppo.config.schema import Config, Hyperparams, Run


@pytest.mark.parametrize("columns", [20, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_within_the_width(monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    options = options_of(COMMANDS[name].options)
    text = command_help(name, COMMANDS[name].options.__doc__, options)
    for option in options:
        assert f"\n  {option.argument or option.flag}" in text
    assert max(len(line) for line in text.splitlines() if "{" not in line) <= max(60, min(columns, 120))


def test_defaults_are_those_of_the_run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    run = Run(config=Config(num_envs=7, scale_rewards=True), hyperparams=Hyperparams(gamma=0.5))
    text = command_help("train", "", options_of(COMMANDS["train"].options, run))
    for key, value in (("num-envs INT", 7), ("scale-rewards [true|false]", "true"), ("gamma FLOAT", 0.5)):
        entry = text[text.index(key) :].split("\n  --")[0]
        assert f"(default: {value})" in " ".join(entry.split())
    assert "(default: 64 64)" in text


def test_the_general_help_lists_the_commands():
    text = general_help([("train", "Train an agent. More."), ("envs", "List.")], "About.")
    assert "  train                   Train an agent\n" in text
    assert "More" not in text
