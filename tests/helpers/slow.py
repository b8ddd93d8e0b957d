"""Parametrization in which only some values belong to the fast tests; `make test-slow` runs the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[Any], *fast: Any) -> list:
    """Return the values for `parametrize`, those not in `fast` marked as slow; a tuple is several arguments."""
    values = list(values)
    assert all(case in values for case in fast), "a fast case does not exist"
    return [value if value in fast else _slow(value) for value in values]


def _slow(value: Any) -> Any:
    arguments = value if isinstance(value, tuple) else (value,)
    return pytest.param(*arguments, marks=pytest.mark.slow)
