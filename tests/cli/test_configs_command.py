"""`purejaxppo configs` lists the shipped settings and prints one of them."""

import pytest
from command_line import ROOT, problems_of

from purejaxppo.cli.main import main
from purejaxppo.config.shipped import shipped_configs


def test_every_file_is_a_line_with_its_environment(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    assert next(line for line in lines if line.startswith("pendulum_tanh ")).split()[1] == "Pendulum-v1"


@pytest.mark.parametrize("name", ["minatar_breakout_cnn", "Breakout-MinAtar", "gymnax/Breakout-MinAtar"])
def test_one_is_printed_unchanged(capsys, name):
    assert main(["configs", name]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "minatar_breakout_cnn.toml").read_text()


def test_an_unknown_name_is_one_problem():
    assert problems_of("configs", "cartpol") == {("cartpol", "choice")}
    assert problems_of("configs", "cartpol", "--all") == {("cartpol", "choice"), ("--all", "unknown")}
