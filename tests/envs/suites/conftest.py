"""The tests of a suite that is not a dependency of the package have the marker `suites`."""

from pathlib import Path

import pytest

ALWAYS_INSTALLED = ("test_examples", "test_gymnax")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem not in ALWAYS_INSTALLED:
            item.add_marker(pytest.mark.suites)
