"""The method of a sweep decides what runs it."""

from types import SimpleNamespace

import pytest

from purejaxppo.sweeps import methods
from purejaxppo.sweeps.axes import METHODS
from purejaxppo.sweeps.methods import run_method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_way_to_run(monkeypatch, method):
    """Only a search in a shared study must know which folder asks."""
    monkeypatch.setattr(methods, "run_batches", lambda runner, identity: {"batches": (runner, identity)})
    monkeypatch.setattr(methods, "run_populations", lambda runner: {"populations": (runner,)})
    options = SimpleNamespace(method=method)
    runner = SimpleNamespace(sweep=SimpleNamespace(options=options), run=lambda: {"runner": ()})
    ways = {"optuna": {"batches": (runner, "this folder")}, "population": {"populations": (runner,)}}
    assert run_method(runner, "this folder") == ways.get(method, {"runner": ()})
