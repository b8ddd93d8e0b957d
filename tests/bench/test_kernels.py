"""Kernels and memory of one update compared with recorded numbers."""

import tomllib
from pathlib import Path

import jax
import pytest

from purejaxppo.bench.hlo import count
from purejaxppo.bench.measure import peak_memory
from purejaxppo.bench.programs import make_algorithm
from purejaxppo.bench.workloads import WORKLOADS
from purejaxppo.training.loop import as_traced

VERSION = ".".join(jax.__version__.split(".")[:2])
RECORDED = tomllib.loads(Path(__file__).with_name("kernels.toml").read_text())
MORE, LESS = 1.03, 0.8  # patch versions of XLA differ by 1 %; if a program is far below its number, record a new one


@pytest.mark.perf
@pytest.mark.skipif(VERSION not in RECORDED, reason=f"tests/bench/kernels.toml has no numbers for jax {VERSION}")
@pytest.mark.parametrize("name", ["W1", "W2"])
def test_kernels_and_memory_of_an_update_are_the_recorded_ones(name):
    """The numbers come from the optimized HLO, which the flags of conftest.py do not change (they concern LLVM)."""
    run = WORKLOADS[name].run
    algo, h = make_algorithm(run), as_traced(run.hyperparams)
    state = jax.eval_shape(algo.init, jax.random.key(0), h)
    program = jax.jit(algo.update).lower(state, h).compile()
    found = {"kernels": count(program.as_text()).executed, "bytes": peak_memory(program)}
    print(f'["{VERSION}".{name}]\nkernels = {found["kernels"]:_.0f}\nbytes = {found["bytes"]:_}')
    for quantity, recorded in RECORDED[VERSION][name].items():
        assert LESS * recorded <= found[quantity] <= MORE * recorded, quantity
