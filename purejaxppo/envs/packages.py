"""Packages of environment suites: which versions work, how they are imported, and the arguments of their classes.

The adapters in `suites/` use this module; it imports no suite by itself.
"""

import functools
import importlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax

from purejaxppo._util.aliases import PRNGKey, SuiteObject
from purejaxppo._util.text import nearest
from purejaxppo.envs.conformance import allow_promotion
from purejaxppo.envs.errors import MissingSuite, missing_suite
from purejaxppo.envs.parameters import check_values
from purejaxppo.envs.protocol import NEVER

F = TypeVar("F", bound=Callable[..., Any])


class Package(NamedTuple):
    """The Python package that a suite comes in."""

    project: str  # name on the package index
    module: str  # what is imported
    at_least: str  # oldest version that works
    below: str  # first version that is not known to work
    tested: str  # version that the tests last passed with


# suite -> package. The extra of pyproject.toml with the name of the suite has the same bounds.
PACKAGES: dict[str, Package] = {
    "brax": Package("brax", "brax", "0.14", "1", "0.14.2"),
    "playground": Package("playground", "mujoco_playground", "0.2", "1", "0.2.0"),
    "craftax": Package("craftax", "craftax", "1.6", "2", "1.6.1"),
    "jumanji": Package("jumanji", "jumanji", "1.1", "2", "1.1.2"),
    "navix": Package("navix", "navix", "0.7", "5", "0.7.4 and 4.0.0"),
    "xland": Package("xminigrid", "xminigrid", "0.9", "1", "0.9.3"),
    "pgx": Package("pgx", "pgx", "2.6", "3", "2.6.0"),
    "jaxmarl": Package("jaxmarl", "jaxmarl", "0.2", "1", "0.2.0"),
    "gymnasium": Package("gymnasium", "gymnasium", "1.1", "2", "1.3.0"),
}


@contextmanager
def suite_code() -> Iterator[None]:
    """Lift JAX's strict modes and silence warnings while a suite's own code runs."""
    with allow_promotion(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def quiet(function: F) -> F:
    """Return a function of a suite's code under `suite_code`: it warns and promotes when it is traced."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with suite_code():
            return function(*args)

    return run  # pyright: ignore[reportReturnType]


def raw_key(key: PRNGKey) -> jax.Array:
    """Return a typed key as the uint32 array that suites were written for.

    Random numbers are the same. Suites that use a key twice, or branch on one under `vmap`, pass JAX's key reuse check,
    and states that hold keys are plain arrays.
    """
    return jax.random.key_data(key)


def import_suite(suite: str, module: str = "") -> SuiteObject:
    """Import the package of a suite, or a module in it.

    Args:
        suite: name of the suite, a key of `PACKAGES`.
        module: full name of the module; by default that of the package.

    Raises:
        MissingSuite: the package is not installed, cannot be imported, or has a version that does not work.
    """
    package = PACKAGES[suite]
    try:
        version = importlib.metadata.version(package.project)
    except importlib.metadata.PackageNotFoundError as error:
        raise missing_suite(suite) from error
    check_version(suite, version)
    try:
        with suite_code():
            return importlib.import_module(module or package.module)
    except ImportError as error:
        raise missing_suite(suite, error) from error


def check_version(suite: str, version: str) -> None:
    """Check that the version of a suite's package is one that works.

    Raises:
        MissingSuite: it is too old or too new; the message names the tested one.
    """
    package = PACKAGES[suite]
    if not _release(package.at_least) <= _release(version) < _release(package.below):
        raise MissingSuite(
            f"the suite {suite!r} needs {package.project}>={package.at_least},<{package.below} (tested with "
            f"{package.tested}), but {version} is installed: pip install 'purejaxppo[{suite}]'"
        )


def has_version(suite: str, at_least: str) -> bool:
    """Return whether a version of a suite's package is installed that is at least this one."""
    try:
        return _release(importlib.metadata.version(PACKAGES[suite].project)) >= _release(at_least)
    except importlib.metadata.PackageNotFoundError:
        return False


def _release(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "1.2.0rc1" -> (1, 2)."""
    numbers: list[int] = []
    for piece in version.split("."):
        if not piece.isdigit():
            break
        numbers.append(int(piece))
    while numbers and numbers[-1] == 0:  # 1.0 is 1
        numbers.pop()
    return tuple(numbers)


def arguments_of(function: Callable[..., Any], hidden: tuple[str, ...] = ("self", "viewer")) -> dict[str, Any]:
    """Return the named arguments of a function or class with their defaults; None if one has no default."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(function).parameters.items()
    empty = inspect.Parameter.empty
    return {k: None if p.default is empty else p.default for k, p in found if p.kind in kinds and k not in hidden}


def gap_of_clock(limit: SuiteObject) -> int:
    """Return the `truncation_gap` of a clock that starts at 0: its limit, or 1 if it is not a Python integer."""
    return min(max(limit, 1), NEVER) if isinstance(limit, int) else 1


def choose_arguments(name: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that the user gives, as the kinds of their defaults.

    Args:
        name: name of the environment for messages.
        defaults: every argument that can be given. If a default is a bool, number or string, a value must be of its
            kind, or a JAX array; any other default takes any value.
        given: the user's `env_params`.

    Raises:
        ValueError: an unknown argument (each with the nearest), or a value of another kind than its default.
    """
    unknown = [f"{k!r} (nearest: {', '.join(nearest(k, defaults, 3))})" for k in given if k not in defaults]
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}")
    wrong = [k for k, v in given.items() if isinstance(defaults[k], str) and not isinstance(v, str)]
    if wrong:
        raise ValueError(f"{name}: {wrong[0]} must be a string, like {defaults[wrong[0]]!r}, not {given[wrong[0]]!r}")
    return check_values(name, defaults, given)
