"""Versions, imports and arguments of the packages of suites. No suite has to be installed."""

import importlib.metadata
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from purejaxppo.envs.errors import MissingSuite
from purejaxppo.envs.packages import (
    PACKAGES,
    arguments_of,
    check_version,
    choose_arguments,
    import_suite,
    raw_key,
)

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_the_extra_of_each_suite_has_the_bounds_of_its_package() -> None:
    extras = PROJECT["optional-dependencies"]
    for suite, package in PACKAGES.items():
        (requirement,) = extras[suite]
        name, bounds = requirement.split(">=")
        assert name.partition("[")[0] == package.project
        assert bounds == f"{package.at_least},<{package.below}"
    assert extras["suites"] == [f"purejaxppo[{','.join(PACKAGES)}]"]


@pytest.mark.parametrize("suite", PACKAGES)
def test_the_tested_version_is_accepted(suite: str) -> None:
    for version in PACKAGES[suite].tested.split(" and "):
        check_version(suite, version)


@pytest.mark.parametrize("version", ["0.13.9", "0.9", "1.0.0", "2.1rc1"])
def test_a_version_that_is_too_old_or_too_new_names_the_tested_one(version: str) -> None:
    with pytest.raises(MissingSuite, match=r"tested with 0\.14\.2.*purejaxppo\[brax\]") as caught:
        check_version("brax", version)
    assert version in str(caught.value)


@pytest.mark.parametrize("version", ["0.14", "0.14.0", "0.15.1rc2", "0.14.2.dev3"])
def test_a_version_within_the_bounds_is_accepted(version: str) -> None:
    check_version("brax", version)


def test_a_suite_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(project: str) -> str:
        raise importlib.metadata.PackageNotFoundError(project)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MissingSuite, match=r"pip install 'purejaxppo\[pgx\]'"):
        import_suite("pgx")


def test_a_package_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda project: "2.6.0")
    with pytest.raises(MissingSuite, match="pgx_is_broken"):
        import_suite("pgx", "pgx_is_broken")


def test_arguments_of_a_class() -> None:
    class Game:
        def __init__(self, size, komi: float = 7.5, *, viewer=None, **rest):
            pass

    assert arguments_of(Game) == {"size": None, "komi": 7.5}


def test_values_take_the_kind_of_their_default() -> None:
    defaults = {"steps": 10, "scale": 1.0, "sparse": False, "backend": "jax", "generator": None}
    chosen = choose_arguments("x", defaults, {"steps": 3.0, "scale": 2, "backend": "mjx", "generator": (1, 2)})
    assert chosen == {"steps": 3, "scale": 2.0, "backend": "mjx", "generator": (1, 2)}
    assert [type(v) for v in chosen.values()] == [int, float, str, tuple]
    array = jnp.float32(2.0)
    assert choose_arguments("x", defaults, {"scale": array})["scale"] is array


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 2.5), ("steps", True), ("scale", "1"), ("scale", float("nan")), ("sparse", 1), ("backend", 3)],
)
def test_a_value_of_another_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"x: {name}"):
        choose_arguments("x", {"steps": 10, "scale": 1.0, "sparse": False, "backend": "jax"}, {name: value})


def test_all_unknown_arguments_are_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'max_step' \(nearest: max_steps.*'view' \(nearest: view_size"):
        choose_arguments("x", {"max_steps": 1, "view_size": 7}, {"max_step": 3, "view": 5})


def test_a_raw_key_draws_the_same_numbers(key: jax.Array) -> None:
    assert jnp.array_equal(jax.random.bits(raw_key(key)), jax.random.bits(key))
