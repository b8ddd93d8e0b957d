"""Environments by id: `make("CartPole-v1")` or `make("gymnax/CartPole-v1")`.

The adapter of a suite is the module of that name in `suites/`. It has two functions: `ids()`, which is cheap and does
not import the suite, and `make(id, **env_params)`. Adapters are imported when they are needed.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from purejaxppo._util.text import nearest
from purejaxppo.envs.errors import SUITES, EnvironmentUnavailable, MissingSuite, UnknownEnvironment, missing_suite
from purejaxppo.envs.facts import Facts, recorded, recorded_ids
from purejaxppo.envs.packages import suite_code
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.envs.rendering import Renderer

# Ids less similar than this (difflib's ratio) are not suggested.
LIKENESS = 0.6

HOST_SUITES = ("gymnasium",)  # their environments run on the host, not on the device


def installed(suite: str) -> bool:
    """Return whether the package of a suite is installed, without importing it."""
    return importlib.util.find_spec(SUITES[suite].package) is not None


def has_adapter(suite: str) -> bool:
    """Return whether this version has an adapter of a suite."""
    return importlib.util.find_spec(f"purejaxppo.envs.suites.{suite}") is not None


def available() -> dict[str, tuple[str, ...]]:
    """Return the ids of each installed suite, without importing any suite."""
    return {suite: _ids(suite) for suite in SUITES if installed(suite) and has_adapter(suite)}


def known() -> dict[str, list[Facts]]:
    """Return what is recorded about the environments of every suite, without importing any suite.

    Ids of an installed suite are those that it has; one that is not recorded has no facts. Ids of a suite that is not
    installed are the recorded ones.
    """
    facts = recorded()
    found = available()
    return {
        suite: [facts.get(f"{suite}/{name}", Facts(suite, name)) for name in found.get(suite, recorded_ids(suite))]
        for suite in SUITES
        if has_adapter(suite)
    }


def make(name: str, **env_params: Any) -> Env | VecEnv:
    """Make an environment.

    Args:
        name: an id, with or without its suite: "gymnax/CartPole-v1" or "CartPole-v1". Without, the installed suites
            are searched.
        env_params: parameters of the environment that replace the defaults.

    Raises:
        UnknownEnvironment: there is no such id; the message names similar ones, if there are any.
        MissingSuite: the package of the suite is not installed.
        EnvironmentUnavailable: the environment needs something that is missing, such as a download.
        ValueError: an unknown parameter, or a value of a wrong type or out of range.
    """
    suite, env_id = _resolve(name)
    return _adapter(suite).make(env_id, **env_params)._replace(name=name)


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how the states of an environment are drawn.

    Args:
        name: an id, as of `make`.
        env_params: parameters of the environment.

    Raises:
        EnvironmentUnavailable: it has no pictures.
        UnknownEnvironment, MissingSuite: see `make`.
    """
    suite, env_id = _resolve(name)
    adapter = _adapter(suite)
    with suite_code():
        found = adapter.renderer(env_id, **env_params) if hasattr(adapter, "renderer") else None
    if found is None:
        drawn = ", ".join(suite for suite in SUITES if has_adapter(suite) and hasattr(_adapter(suite), "renderer"))
        raise EnvironmentUnavailable(f"{suite}/{env_id} has no renderer (suites that have one: {drawn})")
    return found


def _adapter(suite: str) -> ModuleType:
    return importlib.import_module(f"purejaxppo.envs.suites.{suite}")


def _ids(suite: str) -> tuple[str, ...]:
    return tuple(_adapter(suite).ids())


def _resolve(name: str) -> tuple[str, str]:
    """Return (suite, id) of a name with or without its suite.

    Raises:
        UnknownEnvironment, MissingSuite: see `make`.
    """
    if not isinstance(name, str):
        raise UnknownEnvironment(f'the name of an environment must be a string such as "CartPole-v1", not {name!r}')
    suite, slash, env_id = name.partition("/")
    if slash and suite in SUITES:
        if not installed(suite):
            raise missing_suite(suite)
        found = {suite: _ids(suite)} if has_adapter(suite) else {}
    else:
        # Environments on the host are slow: they are only meant if their suite is named.
        found = {suite: ids for suite, ids in available().items() if suite not in HOST_SUITES}
        env_id = name
    for candidate, ids in found.items():
        if env_id in ids:
            return candidate, env_id
    if not slash:
        _raise_if_missing(name)
    suite_of = {env_id: suite for suite, ids in reversed(found.items()) for env_id in ids}
    near = nearest(name.rpartition("/")[2], suite_of, 3, LIKENESS)
    near = [f"{suite_of[env_id]}/{env_id}" if slash else env_id for env_id in near]
    hint = f"; similar: {', '.join(near)}" if near else ""
    raise UnknownEnvironment(f"unknown environment {name!r}{hint} (`purejaxppo envs` lists all)")


def _raise_if_missing(env_id: str) -> None:
    """Raise MissingSuite if a suite that is not installed has this id."""
    missing = [suite for suite in SUITES if not installed(suite) and suite not in HOST_SUITES]
    for suite in missing:
        try:
            ids = _ids(suite) if has_adapter(suite) else ()
        except MissingSuite:  # the ids of this suite are read from the suite
            continue
        if env_id in ids:
            raise missing_suite(suite)
    if "gymnax" in missing:
        raise missing_suite("gymnax")
