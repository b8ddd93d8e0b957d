"""Check single values: their type, their interval, their choice."""

import math
from collections.abc import Iterable
from typing import Any, Literal, TypeGuard, get_args, get_origin

import numpy as np

from purejaxppo.config.errors import Problem
from purejaxppo.config.names import suggestion

# Interval notation: `[` and `]` include the end, `(` and `)` exclude it. inf is only valid before a `]`.
INTERVALS = {
    "seed": "[0, 4294967295]",
    "evaluate_every": "[0, 2147483647]",
    "config.num_envs": "[1, 2147483647]",
    "config.num_steps": "[1, 2147483647]",
    "config.num_epochs": "[1, 1000000]",
    "config.num_minibatches": "[1, 2147483647]",
    "config.total_timesteps": "[1, 1000000000000000]",
    "config.n_step": "[1, 2147483647]",
    "config.sequence_length": "[0, 2147483647]",
    "config.burn_in": "[0, 2147483647]",
    "config.microbatch_size": "[0, 2147483647]",
    "config.pool_size": "[1, 2147483647]",
    "config.pool_refresh": "[0, 2147483647]",
    "config.stagger": "[0, 2147483647]",
    "config.num_devices": "[0, 65536]",
    "config.max_skipped": "[0, 2147483647]",
    "network.hidden_sizes": "[1, 1000000]",
    "network.critic_hidden_sizes": "[1, 1000000]",
    "network.embedding_size": "[1, 1000000]",
    "network.rnn_size": "[1, 1000000]",
    "network.log_std_init": "[-10, 10]",
    "hyperparams.learning_rate": "[0, inf)",
    "hyperparams.lr_anneal": "[0, 1]",
    "hyperparams.gamma": "[0, 1]",
    "hyperparams.gae_lambda": "[0, 1]",
    "hyperparams.clip_eps": "(0, inf]",
    "hyperparams.clip_asymmetry": "(0, inf]",
    "hyperparams.dual_clip": "(1, inf]",
    "hyperparams.vf_coef": "[0, inf)",
    "hyperparams.vf_clip_eps": "(0, inf]",
    "hyperparams.ent_coef": "[0, inf)",
    "hyperparams.max_grad_norm": "(0, inf]",
    "hyperparams.adam_b1": "[0, 1)",
    "hyperparams.adam_b2": "[0, 1)",
    "hyperparams.adam_eps": "(0, inf)",
    "hyperparams.reward_clip": "(0, inf]",
    "hyperparams.target_kl": "(0, inf]",
    "hyperparams.beta": "[0, inf)",
    "hyperparams.beta_target_kl": "(0, inf]",
    "hyperparams.lr_target_kl": "(0, inf]",
    "hyperparams.clip_target_kl": "(0, inf]",
    "hyperparams.value_lambda": "[0, 1]",
    "hyperparams.trpo_delta": "(0, inf)",
    "hyperparams.trpo_damping": "[0, inf)",
}

TYPE_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    type(None): "nothing",
}


def show_value(value: Any) -> str:
    """Write a value as in a TOML file; a very large integer as the number of its digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"an integer of {int(math.log10(abs(value))) + 1} digits"
    return str(value)


def is_int(value: Any) -> bool:
    """Return whether `value` is an integer; booleans are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is an integer or a float; a boolean is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def wrong_type(key: str, value: Any, expected: str) -> Problem:
    """Return the problem of a value that is not of the expected type."""
    hint = ""
    if expected == "an integer" and isinstance(value, float) and value.is_integer():
        hint = f"; write {int(value)}"
    if expected == "a number" and isinstance(value, str):
        hint = "; write it without quotes"
    got = TYPE_NAMES.get(type(value), f"a value of type {type(value).__name__}")
    return Problem(key, f" = {show_value(value)}: expected {expected}, got {got}{hint}", "type")


def value_problems(key: str, value: Any, hint: Any) -> list[Problem]:
    """Check one value against the type of its setting and the interval of its key."""
    if get_origin(hint) is Literal:
        return _choice_problems(key, value, get_args(hint))
    if hint is bool:
        return [] if isinstance(value, bool | np.bool_) else [wrong_type(key, value, "true or false")]
    if hint is str:
        return [] if isinstance(value, str) else [wrong_type(key, value, "a string")]
    if hint in (int, float):
        return number_problems(key, value, hint, INTERVALS[key])
    return _sizes_problems(key, value)


def number_problems(key: str, value: Any, hint: type, interval: str) -> list[Problem]:
    """Check that a value is an int or a float, as `hint` says, and inside of an interval."""
    return _integer_problems(key, value, interval) if hint is int else _float_problems(key, value, interval)


def _integer_problems(key: str, value: Any, interval: str) -> list[Problem]:
    if not is_int(value):
        return [wrong_type(key, value, "an integer")]
    numbers = np.asarray(max(-(2.0**63), min(2.0**63, value)))  # an integer can exceed every float
    return _interval_problems(key, value, numbers, numbers, interval)


def _float_problems(key: str, value: Any, interval: str) -> list[Problem]:
    try:
        numbers = _numbers(value)
    except TypeError:
        return [wrong_type(key, value, "a number")]
    return [] if numbers is None else _interval_problems(key, value, numbers, as_float32(numbers), interval)


def _choice_problems(key: str, value: Any, choices: tuple[str, ...]) -> list[Problem]:
    listed = ", ".join(choices)
    if not isinstance(value, str):
        return [wrong_type(key, value, f"one of the names {listed}")]
    return [] if value in choices else [unknown_choice(key, value, choices)]


def unknown_choice(key: str, value: Any, choices: Iterable[str]) -> Problem:
    """Return the problem of a value that is none of `choices`; it names the nearest and lists all."""
    choices = tuple(choices)
    near = suggestion(str(value), choices)
    hint = f'; did you mean "{near}"?' if near else ""
    return Problem(key, f' = "{value}": no such choice{hint} (one of {", ".join(choices)})', "choice")


def _sizes_problems(key: str, value: Any) -> list[Problem]:
    if not isinstance(value, list | tuple) or not all(is_int(size) for size in value):
        return [wrong_type(key, value, "a list of integers")]
    found = [(i, problem) for i, size in enumerate(value) for problem in _integer_problems(key, size, INTERVALS[key])]
    return [problem._replace(key=f"{key}[{i}]") for i, problem in found]


def _numbers(value: Any) -> np.ndarray | None:
    """Return the numbers of a scalar or a concrete array as float64; None if they are traced or abstract.

    Raises:
        TypeError: the value is not a number.
    """
    if isinstance(value, float):
        return np.asarray(value)
    if is_int(value):
        try:
            return np.asarray(float(value))
        except OverflowError:
            return np.asarray(math.nan)  # no float is near it, so no interval holds it
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        raise TypeError
    import jax  # only a value that is an array needs it
    from jax.core import Tracer

    if not np.issubdtype(value.dtype, np.number) and not str(value.dtype).startswith("bfloat"):
        raise TypeError
    known = isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, Tracer)
    return np.asarray(value, np.float64) if known and getattr(value, "is_fully_addressable", True) else None


def as_float32(numbers: np.ndarray) -> np.ndarray:
    """Return the values that a program computes with: rounded to float32, subnormals as 0."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(np.float32).astype(np.float64)
    return np.where(np.abs(rounded) < np.finfo(np.float32).tiny, 0.0, rounded)


def _in_words(interval: str) -> str:
    """Say what an interval such as "[0, 1)" or "(0, inf]" allows."""
    low, high = interval[1:-1].split(", ")
    if interval == f"[{low}, {high}]" and high != "inf":
        return f"must lie between {low} and {high}"
    words = f"must be {'at least' if interval[0] == '[' else 'above'} {low}"
    if high == "inf":
        return words + (" (inf: off)" if interval[-1] == "]" else " and finite")
    return f"{words} and below {high}"


def _interval_problems(key: str, value: Any, given: np.ndarray, used: np.ndarray, interval: str) -> list[Problem]:
    """Check numbers against an interval, as they are given and as the program uses them."""
    if given.size == 0:
        return [Problem(key, ": an empty array", "range")]
    outside = ~(_inside(given, interval) & _inside(used, interval))
    if not outside.any():
        return []
    index = tuple(int(i) for i in np.argwhere(outside)[0])
    first = float(given[index])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    shown = f"{first:g}" if hasattr(value, "dtype") else show_value(value)
    low, high = _ends(interval)
    hint = ""
    if _inside(given[index], interval):
        hint = f"; as a float32 it is {used[index]:g}"
    elif first < low and interval[0] == "[":
        hint = f"; nearest valid value: {low:g}"
    elif first > high and interval[-1] == "]":
        hint = f"; nearest valid value: {high:.16g}"
    return [Problem(key + place, f" = {shown}: {_in_words(interval)}{hint}", "range")]


def _ends(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _inside(numbers: np.ndarray, interval: str) -> np.ndarray:
    """Return for each number whether it is inside; a NaN never is."""
    low, high = _ends(interval)
    above = numbers >= low if interval[0] == "[" else numbers > low
    below = numbers <= high if interval[-1] == "]" else numbers < high
    return above & below
