"""Spaces as JSON text, for files that describe a policy or a run.

`{"discrete": n}`, `{"multi_discrete": [n, ...]}`, `{"box": {"low", "high", "shape", "dtype", "pixels", "codes"}}`,
`{"dict": {name: space}}` or `{"tuple": [space, ...]}`. Infinite bounds are the texts "inf" and "-inf". Bounds and codes
that are equal everywhere are one value.
"""

import json
import math
from collections.abc import Mapping

import numpy as np

from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, children

MAX_ENTRIES = 10**8  # of a Box that is read


def write_space(space: Space) -> str:
    """Return a space as one line of JSON; equal spaces give equal texts."""
    return json.dumps(_to_json(space), sort_keys=True, allow_nan=False)


def read_space(text: str) -> Space:
    """Return the space of a text of `write_space`. No code is executed, and no large array is made.

    Raises:
        ValueError: the text is not one of a space.
    """
    try:
        return _from_json(json.loads(text))
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"not the text of a space: {type(error).__name__}: {error}") from None


def _to_json(space: Space) -> Mapping[str, object]:
    if isinstance(space, Discrete):
        return {"discrete": space.n}
    if isinstance(space, MultiDiscrete):
        return {"multi_discrete": list(space.nvec)}
    if isinstance(space, Box):
        values = {"low": space.low, "high": space.high, "codes": space.codes}
        facts = {"shape": list(space.shape), "dtype": space.dtype.name, "pixels": space.pixels}
        return {"box": facts | {name: _brief(array) for name, array in values.items()}}
    entries = [(str(name), _to_json(child)) for name, child in children(space)]
    return {"dict": dict(entries)} if isinstance(space, dict) else {"tuple": [entry for _, entry in entries]}


def _brief(array: np.ndarray) -> object:
    """Return an array as nested lists, or as one value if it is the same everywhere."""
    if array.size and (array == array.flat[0]).all():
        return _finite(array.flat[0].item())
    return _finite(array.tolist())


def _finite(value: object) -> object:
    """Replace infinite numbers, which JSON does not have, by texts."""
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _from_json(data: dict) -> Space:
    ((kind, content),) = data.items()
    if kind == "discrete":
        return Discrete(content)
    if kind == "multi_discrete":
        return MultiDiscrete(tuple(content))
    if kind == "dict":
        return {name: _from_json(child) for name, child in content.items()}
    if kind == "tuple":
        return tuple(_from_json(child) for child in content)
    if kind != "box":
        raise ValueError(f"unknown kind {kind!r}")
    return _read_box(content)


def _read_box(content: dict) -> Box:
    shape, dtype = content["shape"], np.dtype(content["dtype"])
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) > MAX_ENTRIES:
        raise ValueError(f"the shape {shape} is not one of at most {MAX_ENTRIES} entries")
    if dtype.kind not in "biuf":
        raise ValueError(f"the dtype {dtype} is no number")
    low, high = (np.broadcast_to(_bound(content[name], dtype), shape) for name in ("low", "high"))
    return Box(low, high, bool(content["pixels"]), np.asarray(content["codes"], np.bool_))


def _bound(value: object, dtype: np.dtype) -> np.ndarray:
    """Return a bound in its dtype; the texts "inf" and "-inf" are read as numbers."""
    if dtype.kind != "f":
        return np.asarray(value, dtype)
    return np.asarray(np.asarray(value, object), np.float64).astype(dtype)
