"""Environments by id: `make("CartPole-v1")` or `make("gymnax/CartPole-v1")`."""

import importlib
import importlib.util
from typing import Any

from purejaxppo._util.text import nearest
from purejaxppo.envs.errors import MissingSuite, UnknownEnvironment
from purejaxppo.envs.protocol import Env

# suite -> (package that it needs, what to install). The adapter is the module of this folder of the same name;
# it has ids() -> tuple of names, cheap, and make(name, **env_params) -> Env. An id without its suite is looked
# for in this order.
SUITES: dict[str, tuple[str, str]] = {
    "gymnax": ("gymnax", "'gymnax>=1.0.1' six"),
    "examples": ("purejaxppo", "purejaxppo"),
    "pgx": ("pgx", "'purejaxppo[pgx]'"),
    "xland": ("xminigrid", "'purejaxppo[xland]'"),
}


def installed(suite: str) -> bool:
    """Whether the package of a suite is installed; does not import it."""
    return importlib.util.find_spec(SUITES[suite][0]) is not None


def _adapter(suite: str) -> Any:
    return importlib.import_module(f"purejaxppo.envs.suites.{suite}")


def available() -> dict[str, tuple[str, ...]]:
    """The ids that each installed suite has, without importing any suite."""
    return {suite: tuple(_adapter(suite).ids()) for suite in SUITES if installed(suite)}


def missing_suite(suite: str, cause: object = None) -> MissingSuite:
    """The error for a suite whose package cannot be imported."""
    package, install = SUITES[suite]
    why = f" ({cause})" if cause else ""
    return MissingSuite(f"the suite {suite!r} needs the package {package}{why}: pip install {install}")


def _resolve(name: str) -> tuple[str, str]:
    """(suite, id) of a name with or without its suite."""
    suite, slash, rest = name.partition("/")
    if slash and suite in SUITES:
        if not installed(suite):
            raise missing_suite(suite)
        if rest in _adapter(suite).ids():
            return suite, rest
    ids = available()
    for suite, names in ids.items():
        if name in names:
            return suite, name
    known = [f"{suite}/{x}" if slash else x for suite, names in ids.items() for x in names]
    if not known:
        raise missing_suite(next(iter(SUITES)))
    raise UnknownEnvironment(
        f"unknown environment {name!r}; the nearest are {', '.join(nearest(name, known, 3))} "
        "(`purejaxppo envs` lists all)"
    )


def make(name: str, **env_params: Any) -> Env:
    """The environment of this name; `env_params` replace its parameters.

    Raises:
        UnknownEnvironment: no such id; the message names the three nearest.
        MissingSuite: the package of the suite is not installed.
        EnvironmentUnavailable: it needs something that is not there, such as the network.
        ValueError: unknown parameter, or one of a wrong type.
    """
    suite, env_id = _resolve(name)
    return _adapter(suite).make(env_id, **env_params)._replace(name=name)
