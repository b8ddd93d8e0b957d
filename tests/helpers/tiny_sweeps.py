"""Sweeps over noisy descent, which compiles at once; the score of a run is the return of its last update."""

import numpy as np
from descent import descent

from purejaxppo.sweeps import store
from purejaxppo.sweeps.engine import Engine
from purejaxppo.sweeps.execution import Execution
from purejaxppo.sweeps.methods import run_method
from purejaxppo.sweeps.runner import Group, Runner, group_settings
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.table import TABLE, TRIALS, trial_rows, write_tables

UPDATES = 16
BASE = {
    "env": "CartPole-v1",
    "config": {"num_envs": 4, "num_steps": 16, "num_minibatches": 2, "total_timesteps": 64 * UPDATES},
}
RATE = {"learning_rate": {"low": 1e-3, "high": 1.0, "scale": "log"}}
SEARCH = {"method": "optuna", "num_settings": 6, "batch": 2, "test_seeds": 2, "axes": RATE | {"gamma": [0.9, 0.99]}}
ALGORITHM = descent()


def play(engine, states, seeds, env_params=None):
    """Return -f of each run as its evaluation, [R, 1]."""
    x = np.asarray(states.params, np.float64)
    return -0.5 * (50.0 * x[:, :1] ** 2 + x[:, 1:] ** 2)


def run_sweep(folder, given, monkeypatch, updates=UPDATES, identity="this", lanes=4, save_seconds=0.0):
    """Run a sweep, or go on with it -> (runner, rows per point, rows per trial); writes the tables."""
    base = BASE | {"config": BASE["config"] | {"total_timesteps": 64 * updates}}
    sweep, problems = parse_sweep({"seeds": 2, "points": 4, **given}, base)
    assert not problems
    monkeypatch.setattr(Engine, "play", play)
    groups = [Group(i, settings, sweep.run(settings[0]), ALGORITHM) for i, settings in enumerate(group_settings(sweep))]
    if not (folder / store.SWEEP_FILE).exists():
        store.create_folder(folder, sweep, {})
    runner = Runner(folder, sweep, groups, [Execution(lanes, 1, 1)] * len(groups), lambda _: None, save_seconds)
    run_method(runner, identity)
    table, trials, _ = trial_rows(runner.sweep, runner.pieces())
    write_tables(folder, {TABLE: table, TRIALS: trials})
    return runner, table, trials


class Killed(BaseException):
    """The process ends here."""


def die_at(instant, monkeypatch):
    """Let the process end instead of a write of a piece, the first write being 1."""
    writes, write = [0], store.write_piece

    def dying(folder, name, piece):
        writes[0] += 1
        if writes[0] == instant:
            raise Killed
        write(folder, name, piece)

    monkeypatch.setattr(store, "write_piece", dying)
