"""Spaces, what an observation or an action may be: Discrete, MultiDiscrete, Box, and dicts and tuples of spaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Discrete:
    """The integers 0 .. n-1, one int32 scalar."""

    n: int


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers, the i-th in 0 .. nvec[i]-1, int32 of shape [len(nvec)]."""

    nvec: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Box:
    """Arrays between `low` and `high`, which are NumPy arrays of the shape and dtype of the elements.

    Raises:
        ValueError: `low` and `high` differ in shape or dtype.
    """

    low: np.ndarray
    high: np.ndarray

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or self.low.dtype != self.high.dtype:
            raise ValueError(
                f"the bounds of a Box must agree in shape and dtype; low has {self.low.shape} {self.low.dtype}, "
                f"high has {self.high.shape} {self.high.dtype}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element."""
        return self.low.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of an element."""
        return self.low.dtype

    def __repr__(self) -> str:
        low, high = (str(x.flat[0]) if x.size and (x == x.flat[0]).all() else "..." for x in (self.low, self.high))
        return f"Box({low}, {high}, {self.shape}, {self.dtype})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Box)
            and self.dtype == other.dtype
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype.name))


# A space is a leaf (one of the three above) or a dict or tuple of spaces.
Space = Discrete | MultiDiscrete | Box | dict[str, Any] | tuple[Any, ...]


def box(low: Any, high: Any, shape: Sequence[int], dtype: Any = np.float32) -> Box:
    """A Box from bounds that broadcast to `shape`; bounds outside of the dtype's range are moved into it."""
    dtype = np.dtype(dtype)

    def fill(bound: Any) -> np.ndarray:
        bound = np.broadcast_to(np.asarray(bound), tuple(shape))
        if np.issubdtype(dtype, np.integer):
            bound = np.clip(bound.astype(np.float64), np.iinfo(dtype).min, np.iinfo(dtype).max)
        return bound.astype(dtype)

    return Box(fill(low), fill(high))


def is_compound(space: Space) -> bool:
    """Whether a space is a dict or tuple of spaces."""
    return isinstance(space, dict | tuple)


def children(space: Any) -> list[tuple[Any, Any]]:
    """(index, child) of a compound space; dicts in the order of their sorted keys, as pytrees have it."""
    return sorted(space.items()) if isinstance(space, dict) else list(enumerate(space))


def rebuild(space: Any, values: list[Any]) -> Any:
    """The values of a compound space's children, put together as the space is."""
    if isinstance(space, dict):
        return dict(zip(sorted(space), values, strict=True))
    return tuple(values)


def sample_space(space: Space, key: jax.Array) -> Any:
    """A random element: uniform where bounded, standard normal where not (half-open: bound +- exponential)."""
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n, jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jax.random.randint(key, (len(space.nvec),), 0, jnp.asarray(space.nvec, jnp.int32), jnp.int32)
    if isinstance(space, Box):
        return _sample_box(space, key)
    keys = jax.random.split(key, len(space))
    return rebuild(space, [sample_space(child, k) for (_, child), k in zip(children(space), keys, strict=True)])


def _sample_box(space: Box, key: jax.Array) -> jax.Array:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not np.issubdtype(space.dtype, np.floating):
        span = jnp.asarray(high - low + 1, jnp.float32)
        offset = jnp.floor(jax.random.uniform(key, space.shape) * span)
        return (jnp.asarray(low, jnp.float32) + offset).astype(space.dtype)
    # Bounds near the largest float stand for "none": their difference overflows.
    below, above = low > -1e30, high < 1e30
    low, high = (jnp.asarray(np.where(ok, x, 0), jnp.float32) for ok, x in ((below, low), (above, high)))
    key_uniform, key_normal, key_exponential = jax.random.split(key, 3)
    uniform = low + jax.random.uniform(key_uniform, space.shape) * (high - low)
    exponential = jax.random.exponential(key_exponential, space.shape)
    half_open = jnp.where(below, low + exponential, high - exponential)
    unbounded = jax.random.normal(key_normal, space.shape)
    bounded = jnp.where(below & above, uniform, half_open)
    return jnp.where(below | above, bounded, unbounded).astype(space.dtype)


def zero_of(space: Space) -> Any:
    """The element of a space that is zero everywhere (whether or not its bounds allow it)."""
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros((len(space.nvec),), jnp.int32)
    if isinstance(space, Box):
        return jnp.zeros(space.shape, space.dtype)
    return rebuild(space, [zero_of(child) for _, child in children(space)])


def normalized_leaves(space: Space, on: bool = True, name: str = "") -> tuple[bool, ...]:
    """Which leaves of an observation, in pytree order, normalisation is for, if it is on: Box, not codes or masks."""
    if is_compound(space):
        parts = (
            normalized_leaves(child, on, name if name == "action_mask" else str(key)) for key, child in children(space)
        )
        return tuple(flag for part in parts for flag in part)
    return (on and isinstance(space, Box) and name != "action_mask" and space.dtype != np.bool_,)


def encode(space: Space, x: Any) -> jax.Array:
    """One element as a float32 vector: integers one-hot, arrays raveled, compounds one after the other."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        return jnp.concatenate([jax.nn.one_hot(x[i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)])
    if isinstance(space, Box):
        return jnp.ravel(x).astype(jnp.float32)
    return jnp.concatenate([encode(child, x[i]) for i, child in children(space)])


def encoded_space(space: Space) -> Box:
    """The Box [D] that `encode` maps a space to."""
    if isinstance(space, Discrete):
        return box(0, 1, (space.n,))
    if isinstance(space, MultiDiscrete):
        return box(0, 1, (sum(space.nvec),))
    if isinstance(space, Box):
        return Box(space.low.ravel().astype(np.float32), space.high.ravel().astype(np.float32))
    parts = [encoded_space(child) for _, child in children(space)]
    return Box(np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts]))
