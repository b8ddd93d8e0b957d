"""The machine is described as JAX sees it, and its limits follow from the measured operations."""

import jax

from purejaxppo.bench import machine
from purejaxppo.bench.machine import describe_machine, environment_flags, measure_ceilings
from purejaxppo.bench.timing import Spread, TimingBudget


def test_the_description_is_that_of_jax():
    about = describe_machine()
    assert about["platform"] == jax.devices()[0].platform
    assert about["num_devices"] == jax.device_count()
    assert about["cores"] >= 1


def test_limits_are_operations_per_second_of_the_fastest_repetition(monkeypatch):
    monkeypatch.setattr(machine, "time_call", lambda call, budget: Spread(2.0, 0.5, 3.0))
    monkeypatch.setattr(machine.jnp, "ones", lambda shape: shape)
    ceilings = measure_ceilings(TimingBudget())
    assert ceilings == {"matmul_flops_per_s": 2 * 2 * 2048**3, "memory_bytes_per_s": 2 * 12 * 2**25}


def test_flags_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    monkeypatch.setenv("OTHER", "1")
    flags = environment_flags()
    assert flags["XLA_FLAGS"] == "--xla_a=1"
    assert all(name.startswith(("XLA_", "JAX_")) for name in flags)
