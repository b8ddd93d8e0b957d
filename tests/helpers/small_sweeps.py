"""Whole sweeps over a small CartPole: three settings, one of which diverges, two seeds and a test."""

import jax
import pytest

from purejaxppo.sweeps import session
from purejaxppo.sweeps.session import check_sweep, start_sweep
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.training.runs import build

BASE = {
    "env": "CartPole-v1",
    "config": {"num_envs": 4, "num_steps": 16, "num_epochs": 1, "num_minibatches": 2, "total_timesteps": 64 * 8},
    "network": {"hidden_sizes": [8]},
}
GIVEN = {
    "seeds": 2,
    "test_seeds": 2,
    "points": 4,
    "episodes": 2,
    "keep": 2,
    "axes": {"learning_rate": [1e-3, 1e25, 1e-2]},
}
ALGORITHMS = {}


def build_once(settings, problems=()):
    """`build`, which returns the same Algorithm for the same structure, so that nothing is compiled twice."""
    key = repr((settings.env, settings.config, settings.network))
    if problems or key not in ALGORITHMS:
        ALGORITHMS[key] = build(settings, problems)
    return ALGORITHMS[key]


def silent(_):
    pass


def run(folder, lanes, given=GIVEN, **options):
    """Run a sweep in a new folder, and return the folder."""
    sweep, problems = parse_sweep(given, BASE)
    assert not problems
    # The checker takes the move of a vmapped scan's keys for a use of them.
    with pytest.MonkeyPatch.context() as patch, jax.debug_key_reuse(False):
        patch.setattr(session, "build", build_once)
        start_sweep(sweep, check_sweep(sweep, problems), folder, lanes, "the command", silent, **options)
    return folder
