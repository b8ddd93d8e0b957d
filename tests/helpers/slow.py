"""Parametrization in which only some values belong to the fast tests; `make test-slow` runs the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[Any], *fast: Any) -> list:
    """Return the values for `parametrize`, those that are not in `fast` marked as slow."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]
