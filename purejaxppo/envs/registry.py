"""Environments by name: `make("CartPole-v1")` or `make("gymnax/CartPole-v1")`; suites are imported when needed."""

import dataclasses
import importlib
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.checks import nearest
from purejaxppo.envs.conformance import Env

# suite -> (package that it needs, what to install). The adapter is the module of this folder of the same name;
# it has ids() -> tuple of names, cheap, and make(name, **env_params) -> Env. An id without its suite is looked
# for in this order.
SUITES: dict[str, tuple[str, str]] = {
    "gymnax": ("gymnax", "'gymnax>=1.0.1' six"),
    "examples": ("purejaxppo", "purejaxppo"),
}


class EnvironmentProblem(ValueError):
    """An environment cannot be made; the message says why and what to do."""


class UnknownEnvironment(EnvironmentProblem):
    """No suite has an environment of this name; the message names the nearest."""


class MissingSuite(EnvironmentProblem):
    """The package of the suite is not installed; the message says what to install."""


class EnvironmentUnavailable(EnvironmentProblem):
    """The environment needs something that is not there, such as the network."""


def installed(suite: str) -> bool:
    """Whether the package of a suite is installed; does not import it."""
    return importlib.util.find_spec(SUITES[suite][0]) is not None


def _adapter(suite: str) -> Any:
    return importlib.import_module(f"purejaxppo.envs.{suite}")


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


def replace_params(name: str, params: Any, given: dict[str, Any], other_names: tuple[str, ...] = ()) -> Any:
    """The dataclass `params` of the environment `name` with the fields replaced that are `given`.

    Names of `given` that are in `other_names` are passed over. Numbers take the type of the default; lists
    become arrays where the default is one; JAX arrays are taken as they are, so that one can map over them.

    Raises:
        ValueError: an unknown name (all such, each with the nearest), or a value of a wrong type.
    """
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    known = (*fields, *other_names)
    unknown = [f"{k!r} (nearest: {', '.join(nearest(k, known, 3))})" for k in given if k not in known]
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}")
    values = {k: _like(f"{name}: {k}", v, fields[k]) for k, v in given.items() if k in fields}
    return dataclasses.replace(params, **values)


def _like(what: str, value: Any, default: Any) -> Any:
    """The value as the kind of number that the default is."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(default, jax.Array | np.ndarray):
        return jnp.asarray(value, default.dtype)
    kind, value = type(default), value.item() if isinstance(value, np.generic) else value
    number = isinstance(value, bool | int | float) and value == value  # NaN is no value for a parameter
    if not number or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{what} must be of type {kind.__name__}, like {default!r}, not {value!r}")
    if kind is int and not float(value).is_integer():
        raise ValueError(f"{what} must be a whole number, like {default!r}, not {value!r}")
    return kind(value)
