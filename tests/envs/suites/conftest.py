"""Tests of a suite have the marker `suites`; those of suites that `make test` does not install are `costly` as well."""

from pathlib import Path

import pytest

ALWAYS_INSTALLED = ("test_examples", "test_gymnax")
LIGHT = ("test_pgx", "test_xland", "test_navix", "test_jumanji", "test_gymnasium")  # the extra light-suites


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != Path(__file__).parent or item.path.stem in ALWAYS_INSTALLED:
            continue
        item.add_marker(pytest.mark.suites)
        if item.path.stem not in LIGHT:
            item.add_marker(pytest.mark.costly)
