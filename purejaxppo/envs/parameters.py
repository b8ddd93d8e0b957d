"""Replace parameters of an environment by name."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.text import nearest


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
