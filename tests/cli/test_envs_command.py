"""`purejaxppo envs` lists the ids that `make` accepts."""

from command_line import problems_of

from purejaxppo.cli.main import main


def test_every_environment_is_listed_once_by_its_suite(capsys):
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.split()
    assert "gymnax/CartPole-v1" in lines
    assert len(lines) == len(set(lines)) > 20
    assert main(["envs", "gymnax"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed
    assert listed == [line for line in lines if line.startswith("gymnax/")]


def test_an_unknown_suite_is_one_problem():
    assert problems_of("envs", "gymnaz") == {("gymnaz", "choice")}
