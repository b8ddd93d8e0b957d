"""`purejaxppo doctor`: a line for each check, and an exit code that says whether one failed."""

import pytest
from command_line import problems_of

from purejaxppo.cli import doctor_command
from purejaxppo.cli.main import main
from purejaxppo.config.shipped import shipped_configs
from purejaxppo.training.doctor.check import failed, not_seen, passed


def examined(monkeypatch, *checks):
    given = []

    def doctor(env, network, config, num_steps):
        given.append((env.name, config.num_envs, num_steps))
        return list(checks)

    monkeypatch.setattr("purejaxppo.training.doctor.examination.doctor", doctor)
    return given


@pytest.mark.parametrize(
    ("checks", "code"),
    [([passed("a"), not_seen("b", "c")], 0), ([passed("a"), failed("b", "mend it")], 1)],
)
def test_the_exit_code_says_whether_a_check_failed(monkeypatch, capsys, checks, code):
    given = examined(monkeypatch, *checks)
    assert main(["doctor", "catch", "--play-steps", "9", "--num-envs", "32"]) == code
    assert given == [("Catch-bsuite", 32, 9)]
    out = capsys.readouterr().out.splitlines()
    for check in checks:
        advice = f": {check.advice}" if check.advice else ""
        assert f"  {doctor_command.WORDS[check.passed]:<10}{check.name}{advice}" in out


def test_bad_input_is_named_before_anything_is_checked(monkeypatch):
    examined(monkeypatch)
    assert problems_of("doctor") == {("CONFIG", "missing")}
    assert problems_of("doctor", "CartPole-v9") == {("env", "environment")}
    assert problems_of("doctor", "catch", "--play-steps", "0", "--num-envs", "0") == {
        ("--play-steps", "range"),
        ("config.num_envs", "range"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_configs() if "/" not in name])  # those need more packages
def test_no_check_fails_with_a_shipped_config(name, capsys):
    assert main(["doctor", name]) == 0, capsys.readouterr().out
