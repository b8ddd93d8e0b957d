"""Learning results over seeds, for the gates in tests and for the table in docs: `python tests/learning.py --help`."""

import dataclasses
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import purejaxppo as pp
from purejaxppo.config import Run, load_toml
from purejaxppo.networks import make_network
from purejaxppo.statistics import bootstrap_interval, iqm

CONFIGS = Path(__file__).parents[1] / "configs"


class Result(NamedTuple):
    """Mean return of the greedy (sampled) policy of each seed over 128 fresh episodes, [S] each."""

    greedy: np.ndarray
    sampled: np.ndarray
    seconds: float  # training alone, compiled
    compile_seconds: float

    @property
    def iqm(self) -> float:
        return float(iqm(self.greedy))

    @property
    def interval(self) -> tuple[float, float]:
        low, high = bootstrap_interval(jax.random.key(0), self.greedy)
        return float(low), float(high)


def changed(run: Run, config: dict | None = None, hyperparams: dict | None = None, network: dict | None = None) -> Run:
    """The run with some of its settings replaced."""
    return dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, **(config or {})),
        network=dataclasses.replace(run.network, **(network or {})),
        hyperparams=run.hyperparams._replace(**(hyperparams or {})),
    )


def learn(run: Run | str, num_seeds: int, **changes: dict) -> Result:
    """Train `num_seeds` seeds side by side and evaluate each; `run` may be the name of a file in configs/."""
    run = changed(load_toml(CONFIGS / f"{run}.toml") if isinstance(run, str) else run, **changes)
    env = pp.make(run.env, **run.env_params)
    algo = pp.make_ppo(env, make_network(env, run.network), run.config)
    keys, eval_keys = (jax.random.split(jax.random.key(seed), num_seeds) for seed in (run.seed, 1_000_003))
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        start = time.perf_counter()
        program = jax.jit(jax.vmap(lambda key: pp.train(algo, key, run.hyperparams)[0])).lower(keys).compile()
        compiled = time.perf_counter()
        state = jax.block_until_ready(program(keys))
        end = time.perf_counter()

        def returns(greedy: bool) -> np.ndarray:
            each = jax.vmap(lambda s, k: pp.evaluate(algo, s, k, greedy=greedy, max_steps=5000).returns.mean())
            return np.asarray(jax.jit(each)(state, eval_keys))

        return Result(returns(True), returns(False), end - compiled, compiled - start)
