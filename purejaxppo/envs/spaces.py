"""Spaces: the sets that observations and actions come from.

A space is a `Discrete`, a `MultiDiscrete` or a `Box`, or a dict or tuple of spaces. Spaces are static: they hold NumPy
arrays and Python numbers, and they are compared by value.

Sections: the three leaves; compound spaces; elements (sampling, zeros); encoding as a vector; normalization.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from purejaxppo._util.aliases import Action, PRNGKey, PyTree

# Bounds of at least this size mean "unbounded": environments write the largest float for infinity.
UNBOUNDED = 1e30

MAX_CHOICES = 2**31 - 1  # an int32 action


# Leaves --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discrete:
    """The integers 0 to n - 1, as one int32 scalar.

    Raises:
        ValueError: `n` is not an integer from 1 to 2³¹ - 1.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _choices("Discrete(n)", self.n))


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers whose i-th component is in 0 to nvec[i] - 1, as int32 [len(nvec)].

    Raises:
        ValueError: `nvec` is empty, or not a sequence of integers from 1 to 2³¹ - 1.
    """

    nvec: tuple[int, ...]

    def __post_init__(self) -> None:
        nvec: Any = self.nvec
        if np.ndim(nvec) != 1 or not len(nvec):
            raise ValueError(f"MultiDiscrete(nvec) needs one or more integers in a tuple, not {nvec!r}")
        object.__setattr__(self, "nvec", tuple(_choices("MultiDiscrete(nvec)", n) for n in nvec))


def _choices(name: str, n: Any) -> int:
    """Return a number of choices as an int.

    Raises:
        ValueError: it is not an integer from 1 to 2³¹ - 1; the message starts with `name`.
    """
    if isinstance(n, bool | np.bool_) or not isinstance(n, int | np.integer) or not 1 <= n <= MAX_CHOICES:
        raise ValueError(f"{name} needs an integer from 1 to {MAX_CHOICES}, not {n!r}")
    return int(n)


@dataclass(frozen=True, eq=False)
class Box:
    """Arrays between `low` and `high`; `box` builds one from scalars.

    Raises:
        ValueError: the bounds differ in shape or dtype, are NaN or out of order; `pixels` with a dtype other than
            uint8; or `codes` that do not broadcast to the shape.
    """

    low: np.ndarray  # of the shape and dtype of the elements
    high: np.ndarray  # as `low`
    # The elements are images of brightness 0 to 255. Networks divide them by 255; a uint8 array that is not declared
    # as pixels keeps its values, because it can also hold symbols or counts.
    pixels: bool = False
    # Entries that are codes instead of quantities: a bool, or a bool array that broadcasts to the shape. Codes are
    # one-hot vectors, or symbols if the dtype is an integer. They are never normalized.
    codes: Any = False

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if low.shape != high.shape or low.dtype != high.dtype:
            raise ValueError(
                f"the bounds of a Box must agree in shape and dtype; low has {low.shape} {low.dtype}, "
                f"high has {high.shape} {high.dtype}"
            )
        if not (low <= high).all():  # NaN fails as well
            raise ValueError(
                f"the bounds of a Box must be numbers with low <= high, not {_brief(low)} and {_brief(high)}"
            )
        if self.pixels and low.dtype != np.uint8:
            raise ValueError(f"a Box of pixels must have the dtype uint8, not {low.dtype}: networks divide them by 255")
        try:
            object.__setattr__(self, "codes", np.broadcast_to(np.asarray(self.codes, np.bool_), low.shape))
        except ValueError:
            raise ValueError(f"the codes of a Box must broadcast to its shape {low.shape}") from None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an element."""
        return self.low.shape

    @property
    def dtype(self) -> np.dtype:
        """Dtype of an element."""
        return self.low.dtype

    def __repr__(self) -> str:
        marks = (", pixels" if self.pixels else "") + (", codes" if self.codes.any() else "")
        return f"Box({_brief(self.low)}, {_brief(self.high)}, {self.shape}, {self.dtype}{marks})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Box)
            and self.dtype == other.dtype
            and self.pixels == other.pixels
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
            and np.array_equal(self.codes, other.codes)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype.name, self.pixels))


def _brief(bound: np.ndarray) -> str:
    """Return a bound as one number if all its entries are equal, else dots."""
    return str(bound.flat[0]) if bound.size and (bound == bound.flat[0]).all() else "..."


def box(
    low: ArrayLike,
    high: ArrayLike,
    shape: Sequence[int],
    dtype: DTypeLike = np.float32,
    *,
    pixels: bool = False,
    codes: ArrayLike = False,
) -> Box:
    """Build a Box from bounds that broadcast to a shape.

    Args:
        low: lower bound, a number or array; a bound outside the range of the dtype is moved into it.
        high: upper bound, as `low`.
        shape: shape of an element.
        dtype: dtype of an element.
        pixels: the elements are images of brightness 0 to 255 in uint8, which networks divide by 255. The default
            leaves the values as they are, for uint8 too.
        codes: the entries are one-hot codes or symbols, which are never normalized; a bool, or an array of bools.

    Raises:
        ValueError: see `Box`.
    """
    dtype = np.dtype(dtype)

    def fill(bound: ArrayLike) -> np.ndarray:
        bound = np.broadcast_to(np.asarray(bound), tuple(shape))
        if np.isnan(bound.astype(np.float64)).any():
            raise ValueError("the bounds of a Box must be numbers with low <= high, not NaN")
        if np.issubdtype(dtype, np.integer):
            bound = np.clip(bound.astype(np.float64), np.iinfo(dtype).min, np.iinfo(dtype).max)
        with np.errstate(over="ignore"):  # beyond the largest float is infinity
            return bound.astype(dtype)

    return Box(fill(low), fill(high), pixels, codes)


# Compound spaces -----------------------------------------------------------------------------------------------------

Leaf: TypeAlias = Discrete | MultiDiscrete | Box
Compound: TypeAlias = dict[str, Any] | tuple[Any, ...]  # of spaces
Space: TypeAlias = Leaf | Compound


def is_compound(space: Space) -> TypeGuard[Compound]:
    """Return whether a space is a dict or tuple of spaces."""
    return isinstance(space, dict | tuple)


def children(space: Compound) -> list[tuple[str | int, Space]]:
    """Return the pairs (index, child) of a compound space; a dict's in the order of its sorted keys, as in pytrees."""
    return sorted(space.items()) if isinstance(space, dict) else list(enumerate(space))


def rebuild(space: Compound, values: list[PyTree]) -> PyTree:
    """Return one value per child of a compound space as a dict or tuple like the space."""
    if isinstance(space, dict):
        return dict(zip(sorted(space), values, strict=True))
    return tuple(values)


def check_space(space: Any, what: str = "a space") -> None:
    """Check that `space` is a space of this package, down to its leaves.

    Args:
        space: the object to check.
        what: its name in the message, such as "the action space".

    Raises:
        ValueError: says what is there instead and what to write; or the space is empty. An entry may be: the space of a
            mask has () for an entry without one.
    """
    _check_entries(space, what)
    if not jax.tree.leaves(space):
        raise ValueError(f"{what} is an empty {type(space).__name__}")


def _check_entries(space: Any, what: str) -> None:
    if isinstance(space, Discrete | MultiDiscrete | Box):
        return
    if type(space) not in (dict, tuple):
        package = type(space).__module__.partition(".")[0]
        found = f"{'' if package == 'builtins' else f'{package} '}{type(space).__name__}"
        raise ValueError(
            f"{what} must be Discrete(n), MultiDiscrete(nvec) or box(low, high, shape) of purejaxppo.envs, or a dict "
            f"or tuple of these, not an object of type {found}"
        )
    if isinstance(space, dict) and not all(isinstance(key, str) for key in space):
        raise ValueError(f"{what} must have strings as keys, not {sorted(map(repr, space))}")
    for index, child in children(space):
        _check_entries(child, f"{what}[{index!r}]")


# Elements ------------------------------------------------------------------------------------------------------------


def sample_space(space: Space, key: PRNGKey) -> PyTree:
    """Draw a random element of a space.

    A component is uniform if it is bounded, standard normal if it is unbounded, and bound ± exponential if it has one
    bound.
    """
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), 0, space.n, jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jax.random.randint(key, (len(space.nvec),), 0, jnp.asarray(space.nvec, jnp.int32), jnp.int32)
    if isinstance(space, Box):
        return _sample_box(space, key)
    keys = jax.random.split(key, len(space))
    return rebuild(space, [sample_space(child, k) for (_, child), k in zip(children(space), keys, strict=True)])


def _sample_box(space: Box, key: PRNGKey) -> jax.Array:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not np.issubdtype(space.dtype, np.floating):
        span = jnp.asarray(high - low + 1, jnp.float32)
        offset = jnp.floor(jax.random.uniform(key, space.shape, jnp.float32) * span)
        return (jnp.asarray(low, jnp.float32) + offset).astype(jax.dtypes.canonicalize_dtype(space.dtype))
    below, above = low > -UNBOUNDED, high < UNBOUNDED
    low = jnp.asarray(np.where(below, low, 0), jnp.float32)
    high = jnp.asarray(np.where(above, high, 0), jnp.float32)
    key_uniform, key_normal, key_exponential = jax.random.split(key, 3)
    uniform = low + jax.random.uniform(key_uniform, space.shape, jnp.float32) * (high - low)
    exponential = jax.random.exponential(key_exponential, space.shape, jnp.float32)
    half_open = jnp.where(below, low + exponential, high - exponential)
    unbounded = jax.random.normal(key_normal, space.shape, jnp.float32)
    bounded = jnp.where(below & above, uniform, half_open)
    return jnp.where(below | above, bounded, unbounded).astype(jax.dtypes.canonicalize_dtype(space.dtype))


def zero_of(space: Space) -> PyTree:
    """Return the element of a space that is zero everywhere, whether or not the bounds allow it."""
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros((len(space.nvec),), jnp.int32)
    if isinstance(space, Box):
        return jnp.zeros(space.shape, jax.dtypes.canonicalize_dtype(space.dtype))
    return rebuild(space, [zero_of(child) for _, child in children(space)])


def single_precision(space: Space) -> Space:
    """Return a space with every Box of floats as float32, the dtype of a policy's actions."""
    if is_compound(space):
        return rebuild(space, [single_precision(child) for _, child in children(space)])
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and space.dtype != np.float32:
        return box(space.low, space.high, space.shape, codes=space.codes)
    return space


def cast_action(space: Space, action: Action) -> Action:
    """Cast the Box entries of a float32 action to the dtypes of its space, if JAX supports them."""
    if is_compound(space):
        return rebuild(space, [cast_action(child, action[i]) for i, child in children(space)])
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and space.dtype != np.float32:
        return action.astype(jax.dtypes.canonicalize_dtype(space.dtype))
    return action


# A Gaussian sample is practically never further than this many standard deviations from the mean.
REACH = 5.0

FEW = 0.01  # a smaller share of first actions within the bounds draws a warning


def check_reach(space: Box, deviation: float = 1.0) -> None:
    """Check that actions of a Gaussian policy around 0 can lie within the bounds of a space.

    Args:
        space: an action space.
        deviation: the policy's initial standard deviation.

    Raises:
        ValueError: the bounds are out of reach, so that every action would be clipped to the same bound.

    Warns:
        UserWarning: the bounds are so narrow or so far from 0 that almost every action is clipped to a bound.
    """
    if (space.low > REACH * deviation).any() or (space.high < -REACH * deviation).any():
        raise ValueError(
            f"the bounds of {space} are out of reach of a Gaussian policy, which starts at 0 with deviation "
            f"{deviation:g}: wrap the environment in envs.wrappers.rescale_action"
        )
    if share_within(space, deviation) < FEW:
        warnings.warn(
            f"fewer than {FEW:.0%} of the first actions lie within the bounds of {space}, because the policy starts at "
            f"0 with deviation {deviation:g}; the others are clipped to a bound: wrap the environment in "
            "envs.wrappers.rescale_action, or choose another log_std_init",
            UserWarning,
            stacklevel=2,
        )


def share_within(space: Box, deviation: float = 1.0) -> float:
    """Return the probability that a Gaussian around 0 lies within the bounds of a space, for the rarest component.

    Components with equal bounds do not count, because no policy can do better on them.
    """

    def below(bound: float) -> float:
        """The cumulative distribution function of the Gaussian."""
        return 0.5 * math.erfc(-bound / (deviation * math.sqrt(2.0)))

    bounds = zip(np.ravel(space.low), np.ravel(space.high), strict=True)
    return min((below(float(high)) - below(float(low)) for low, high in bounds if low < high), default=1.0)


# Encoding as a vector ------------------------------------------------------------------------------------------------


def encode(space: Space, x: PyTree) -> jax.Array:
    """Encode one element as a float32 vector [D]: integers one-hot, arrays raveled, children concatenated."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        return jnp.concatenate([jax.nn.one_hot(x[i], n, dtype=jnp.float32) for i, n in enumerate(space.nvec)])
    if isinstance(space, Box):
        return jnp.ravel(x).astype(jnp.float32)
    return jnp.concatenate([encode(child, x[i]) for i, child in children(space)])


def encoded_space(space: Space) -> Box:
    """Return the Box [D] that `encode` maps a space to; the entries that come from integers are codes."""
    if isinstance(space, Discrete):
        return box(0, 1, (space.n,), codes=True)
    if isinstance(space, MultiDiscrete):
        return box(0, 1, (sum(space.nvec),), codes=True)
    if isinstance(space, Box):
        codes = space.codes | (space.dtype == np.bool_)
        return box(space.low.ravel(), space.high.ravel(), (space.low.size,), codes=codes.ravel())
    boxes = [encoded_space(child) for _, child in children(space)]
    low, high, codes = (np.concatenate([getattr(b, name) for b in boxes]) for name in ("low", "high", "codes"))
    return Box(low, high, codes=codes)


# Normalization -------------------------------------------------------------------------------------------------------


def normalized_leaves(space: Space, on: bool = True, name: str = "") -> tuple[bool | tuple[bool, ...], ...]:
    """Return which leaves of an observation are normalized: quantities, but no codes and no masks.

    Args:
        space: an observation space.
        on: whether observations are normalized at all.
        name: the key of the space in its parent; "action_mask" is never normalized.

    Returns:
        One flag for each leaf in pytree order; for a Box that mixes quantities with codes, one flag for each entry of
        the raveled array.
    """
    if is_compound(space):
        flags = (
            normalized_leaves(child, on, name if name == "action_mask" else str(key)) for key, child in children(space)
        )
        return tuple(flag for child_flags in flags for flag in child_flags)
    if not on or not isinstance(space, Box) or name == "action_mask" or space.dtype == np.bool_ or space.codes.all():
        return (False,)
    return (tuple((~space.codes).ravel().tolist()) if space.codes.any() else True,)
