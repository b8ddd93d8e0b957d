"""A condition that differs from that of a checkpoint is one line with both values."""

import jax
import pytest

from purejaxppo.training.conditions import CONDITIONS, changed_conditions, conditions
from purejaxppo.training.manifest import Manifest, library_versions


def saved(versions=None, **details):
    """Return the manifest of a checkpoint that is saved under the present conditions, unless others are given."""
    given = {CONDITIONS: conditions(), **details}
    return Manifest(0, (), (), 0, "", {}, versions or library_versions(), given)


def test_the_same_conditions_are_no_line():
    assert changed_conditions(saved()) == []


def test_another_version_is_a_line_with_both():
    (line,) = changed_conditions(saved(library_versions() | {"jax": "0.0"}))
    assert line == f"jax: '0.0' before, '{jax.__version__}' now"


def test_other_devices_and_flags_are_a_line_each(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--before")
    manifest = saved(**{CONDITIONS: conditions() | {"devices": "8 x TPU v9"}})
    monkeypatch.setenv("XLA_FLAGS", "--after")
    device = jax.local_devices()[0].device_kind
    assert changed_conditions(manifest) == [
        f"devices: '8 x TPU v9' before, '{jax.local_device_count()} x {device}' now",
        "XLA_FLAGS: '--before' before, '--after' now",
    ]


def test_flags_that_are_not_set_are_empty(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert conditions()["XLA_FLAGS"] == ""


@pytest.mark.parametrize("given", [None, 3, ["devices"], {}, {"weather": "rain"}])
def test_conditions_that_were_not_saved_are_not_compared(given):
    assert changed_conditions(saved(**{CONDITIONS: given})) == []


def test_a_long_value_from_elsewhere_is_cut():
    (line,) = changed_conditions(saved(library_versions() | {"jax": "9" * 10_000}))
    assert len(line) < 300
