"""Axes of a sweep: which values a setting takes, and how the axes are combined to settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from purejaxppo._util.aliases import Value
from purejaxppo.config.errors import Problem
from purejaxppo.config.names import suggestion
from purejaxppo.config.values import is_int, is_number

METHODS = ("grid", "zip", "random", "quasi_random", "optuna", "population")
SAMPLED = ("random", "quasi_random", "optuna", "population")  # their number of settings is given
SCALES = ("linear", "log")
RANGE_KEYS = ("low", "high", "scale", "count")


class Axis(NamedTuple):
    """Values of one setting: a list, or an interval."""

    key: str  # dotted name of the setting
    values: tuple[Value, ...] = ()  # () for an interval
    low: float = 0.0
    high: float = 0.0
    scale: str = "linear"
    count: int = 0  # of a grid over an interval

    def __str__(self) -> str:
        if self.values:
            return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in self.values)
        grid = f", {self.count} values" if self.count else ""
        return f"{self.low:g} to {self.high:g}, {self.scale}{grid}"


def parse_axis(key: str, given: Value, method: str | None = "") -> tuple[Axis | None, list[Problem]]:
    """Return the axis that a value of a sweep file describes, and its problems.

    Args:
        key: dotted name of the setting.
        given: a list of values, or a table such as {low = 1e-4, high = 1e-2, scale = "log", count = 16}.
        method: of the sweep: a grid over an interval needs a count, a sample none. "": the axis is a grid whatever the
            method is. None: the method is not known, so that no count is checked.
    """
    if isinstance(given, Mapping):
        problems = _range_problems(key, given, method)
        if problems:
            return None, problems
        numbers = {name: float(given[name]) for name in ("low", "high")}
        return Axis(key, (), **numbers, scale=given.get("scale", "linear"), count=given.get("count", 0)), []
    if not isinstance(given, list | tuple):
        text = f" = {given}: an axis is a list of values, or a table such as {{low = 0.1, high = 1.0}}"
        return None, [Problem(key, text, "type")]
    if not given:
        return None, [Problem(key, ": an empty axis; give at least one value", "range")]
    return Axis(key, tuple(tuple(value) if isinstance(value, list) else value for value in given)), []


def _range_problems(key: str, given: Mapping[str, Value], method: str | None) -> list[Problem]:
    problems = []
    for name in given:
        if name not in RANGE_KEYS:
            near = suggestion(name, RANGE_KEYS)
            hint = f"did you mean {near}? " if near else ""
            problems.append(
                Problem(f"{key}.{name}", f": no such key; {hint}(one of {', '.join(RANGE_KEYS)})", "unknown")
            )
    low, high = given.get("low"), given.get("high")
    if not (is_number(low) and is_number(high) and math.isfinite(low + high)):
        return [*problems, Problem(key, ": an interval needs two finite numbers, low and high", "missing")]
    if not low < high:
        problems.append(Problem(key, f": low = {low} must be below high = {high}", "range"))
    scale = given.get("scale", "linear")
    if scale not in SCALES:
        problems.append(Problem(f"{key}.scale", f' = "{scale}": no such scale (one of {", ".join(SCALES)})', "choice"))
    elif scale == "log" and low <= 0:
        problems.append(Problem(f"{key}.low", f" = {low}: must be above 0 on a logarithmic scale", "range"))
    return problems + _count_problems(f"{key}.count", given, method)


def _count_problems(key: str, given: Mapping[str, Value], method: str | None) -> list[Problem]:
    """Return the problem of the count of an interval, which a grid needs and a sample does not have."""
    if method is None:
        return []
    if method in SAMPLED:
        text = f': method "{method}" takes num_settings instead'
        return [Problem(key, text, "conflict")] if "count" in given else []
    if is_int(given.get("count")) and given["count"] >= 2:
        return []
    by_method = f': method "{method}" needs a count of at least 2; or take a sample with method = "random"'
    return [Problem(key, by_method if method else ": needs a count of at least 2", "missing")]


def quantile(axis: Axis, u: float) -> Value:
    """Return the value of an axis at u in [0, 1]: all values of an interval, or of a list, have the same density."""
    if axis.values:
        return axis.values[min(int(u * len(axis.values)), len(axis.values) - 1)]
    if u in (0.0, 1.0):  # the ends exactly, without rounding
        return axis.high if u else axis.low
    if axis.scale == "log":
        value = math.exp(math.log(axis.low) + u * (math.log(axis.high) - math.log(axis.low)))
    else:
        value = axis.low + u * (axis.high - axis.low)
    return min(max(value, axis.low), axis.high)


def grid_values(axis: Axis) -> list[Value]:
    """Return the values of an axis of a grid; those of an interval are equally spaced, its ends included."""
    return list(axis.values) or [quantile(axis, i / (axis.count - 1)) for i in range(axis.count)]


def combine(axes: Sequence[Axis], method: str, count: int = 0, seed: int = 0) -> list[dict[str, Value]]:
    """Return the settings of a sweep, each a value by key; one empty setting if there is no axis.

    Args:
        axes: axes of different keys; for "zip" of equal lengths.
        method: "grid" takes every combination, "zip" the first values, the second values, and so on; "random",
            "quasi_random" and "population" take `count` points; "optuna" leaves `count` settings empty.
        count: number of settings of a sample.
        seed: of a sample.
    """
    keys = [axis.key for axis in axes]
    if not axes:
        return [{}]
    if method == "optuna":
        return [{} for _ in range(count)]
    if method in SAMPLED:
        points = _random(count, len(axes), seed) if method == "random" else low_discrepancy(count, len(axes), seed)
        return [{axis.key: quantile(axis, float(u)) for axis, u in zip(axes, row, strict=True)} for row in points]
    columns = [grid_values(axis) for axis in axes]
    rows = zip(*columns, strict=True) if method == "zip" else itertools.product(*columns)
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _random(count: int, dimensions: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, dimensions))


def low_discrepancy(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Return points that fill the unit cube more evenly than random ones, [count, dimensions].

    Point i is ``frac(u + i (φ⁻¹, φ⁻², ..., φ⁻ᵈ))`` with the positive root φ of ``x^(d+1) = x + 1`` and a random shift
    u: an additive (Kronecker) recurrence, which has no bad projections for the number of axes of a sweep. Any first n
    points are evenly spread too, so that a longer sweep extends a shorter one.
    """
    root = 2.0
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = (1.0 / root) ** np.arange(1, dimensions + 1)
    shift = np.random.default_rng(seed).random(dimensions)
    return (shift + np.arange(count)[:, None] * steps) % 1.0
