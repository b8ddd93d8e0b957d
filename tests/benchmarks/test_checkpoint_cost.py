"""The shares of the run time, with a clock that counts how often it is read."""

import itertools
from types import SimpleNamespace

import fakes
import pytest
from command_line import ROOT, TINY
from scripts import load_script

from purejaxppo.config.toml import parse_toml


@pytest.fixture(scope="module")
def checkpoint_cost():
    return load_script(ROOT / "benchmarks" / "checkpoint_cost.py")


@pytest.mark.parametrize("every", [0, 2])
def test_shares_of_the_run_time(checkpoint_cost, monkeypatch, every):
    """Each chunk of rows takes a tick, and so does every second update's evaluation, of which the first is left out."""
    ticks = itertools.count(1)
    monkeypatch.setattr(checkpoint_cost, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(checkpoint_cost, "build", lambda run: fakes.fake_algorithm(run.config))
    monkeypatch.setattr(checkpoint_cost, "evaluate_policy", lambda *_: fakes.FIGURES)
    run, _ = parse_toml(f"evaluate_every = {every}\n{TINY}")
    cost, megabytes = checkpoint_cost.measure(run, 60)
    assert cost.seconds == pytest.approx(60 + 5, abs=3)
    assert cost.saves == (2 if every else 1), "the best policy, and the last one"
    assert cost.evaluations == (cost.updates // 2 - 1 if every else -1)
    assert round(cost.evaluating) == (cost.evaluations if every else 0)
    cells = checkpoint_cost.row("tiny", run, cost, megabytes)
    assert cells["rows"] == f"{cost.writing / cost.seconds:.2%}"
    assert cells["env steps"] == f"{128 * cost.updates:,}"
    assert ("share" in cells) == bool(every)
    assert float(cells["MB each"]) > 0.0
