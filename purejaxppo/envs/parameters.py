"""Check parameters of an environment by name, type and range, and replace them."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.text import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INT32_MAX = 2**31 - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)

T = TypeVar("T", bound="DataclassInstance")

# name of a parameter -> (lowest, highest) valid value
Ranges = Mapping[str, tuple[float, float]]


def replace_params(
    name: str, params: T, given: Mapping[str, Any], other_names: tuple[str, ...] = (), ranges: Ranges | None = None
) -> T:
    """Replace fields of a dataclass of parameters.

    Args:
        name: name of the environment for messages.
        params: a dataclass with the defaults.
        given: the new values. Numbers take the type of the default. Lists become arrays if the default is an array. JAX
            arrays are used as they are, so that a program can map over them.
        other_names: names in `given` that are not fields and are ignored here.
        ranges: valid ranges of parameters; without one, an integer must fit int32 and a number float32.

    Raises:
        ValueError: an unknown name (all such, each with the nearest), or a value of a wrong type or out of range.
    """
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    known = (*fields, *other_names)
    unknown = [f"{k!r} (nearest: {', '.join(nearest(k, known, 3))})" for k in given if k not in known]
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}")
    chosen = {k: v for k, v in given.items() if k in fields}
    return dataclasses.replace(params, **check_values(name, fields, chosen, ranges))


def check_values(
    name: str, defaults: Mapping[str, Any], given: Mapping[str, Any], ranges: Ranges | None = None
) -> dict[str, Any]:
    """Return parameters as the types of their defaults.

    Args:
        name: name of the environment for messages.
        defaults: the defaults by name. If a default is neither a number nor an array, its parameter takes any value.
        given: values for some of the names.
        ranges: see `replace_params`.

    Raises:
        ValueError: a value of a wrong type or out of range.
    """
    return {k: _check(f"{name}: {k}", v, defaults[k], (ranges or {}).get(k)) for k, v in given.items()}


def _check(what: str, value: Any, default: Any, valid: tuple[float, float] | None) -> Any:
    """Return a value as the kind of number that the default is."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(default, jax.Array | np.ndarray):
        return _check_array(what, value, default)
    kind, value = type(default), value.item() if isinstance(value, np.generic) else value
    if kind not in (bool, int, float):
        return value
    number = isinstance(value, bool | int | float) and value == value  # NaN is not a value
    if not number or isinstance(value, bool) != (kind is bool):
        raise ValueError(f"{what} must be of type {kind.__name__}, like {default!r}, not {value!r}")
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{what} must be a whole number, like {default!r}, not {value!r}")
    low, high = valid or {int: (-INT32_MAX - 1, INT32_MAX), float: (-FLOAT32_MAX, FLOAT32_MAX), bool: (0, 1)}[kind]
    if not low <= value <= high:
        raise ValueError(f"{what} must be in [{low:.10g}, {high:.10g}], not {_shown(value)}")
    return kind(value)


def _check_array(what: str, value: Any, default: Any) -> jax.Array:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.full(1, math.nan)
    if array.shape != default.shape or not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite numbers of shape {default.shape}, not {value!r}")
    return jnp.asarray(array, default.dtype)


def _shown(value: float) -> str:
    """Return a number as text; Python refuses to print integers of thousands of digits."""
    return str(value) if abs(value) < 1e30 or isinstance(value, float) else "an integer beyond 1e30"
