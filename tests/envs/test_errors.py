"""Errors of environments say which package is missing and how it is installed."""

import re
import tomllib
from pathlib import Path

import pytest

from purejaxppo.envs.errors import (
    SUITES,
    EnvironmentProblem,
    EnvironmentUnavailable,
    MissingSuite,
    UnknownEnvironment,
    missing_suite,
)

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("error", [UnknownEnvironment, MissingSuite, EnvironmentUnavailable])
def test_every_error_of_an_environment_is_caught_by_the_common_one_and_as_a_bad_value(error):
    with pytest.raises(EnvironmentProblem):
        raise error("why")
    assert issubclass(error, ValueError)


@pytest.mark.parametrize("suite", SUITES)
def test_the_error_of_a_missing_suite_names_it_its_package_and_the_command(suite):
    package, install = SUITES[suite]
    assert str(missing_suite(suite)) == f"the suite {suite!r} needs the package {package}: pip install {install}"


def test_the_error_has_the_reason_of_a_failed_import():
    error = missing_suite("brax", ImportError("no module named etils"))
    assert isinstance(error, MissingSuite)
    assert "needs the package brax (no module named etils): pip install" in str(error)


def test_every_extra_that_an_error_names_exists():
    for suite, (_, install) in SUITES.items():
        extra = re.fullmatch(r"'purejaxppo\[(\w+)\]'", install)
        if extra is None:
            assert suite in ("gymnax", "examples")  # part of every install
        else:
            assert extra[1] == suite
            assert suite in PROJECT["optional-dependencies"]


def test_the_suites_are_the_adapters():
    adapters = {path.stem for path in (ROOT / "purejaxppo" / "envs" / "suites").glob("*.py")}
    assert set(SUITES) == adapters - {"__init__"}
