"""How much memory there is, under every kind of limit, and how much a program needs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.devices import memory
from purejaxppo.devices.memory import available_memory, compiled_memory, tree_bytes

GB = 10**9


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with 8 GB of available memory and no control groups; returns a function that writes its files."""
    monkeypatch.delenv(memory.MEMORY_VARIABLE, raising=False)
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(str(text))

    write("proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {8 * GB // 1024} kB\n")
    return write


def test_without_a_limit_it_is_the_memory_that_nobody_uses(machine):
    assert available_memory() == 8 * GB // 1024 * 1024


@pytest.mark.parametrize("used_in", ["jobs", "jobs/7"])
def test_a_control_group_of_version_2_and_those_above_it_limit_the_memory(machine, used_in):
    machine("proc/self/cgroup", "0::/jobs/7\n")
    machine("cgroup/jobs/7/memory.max", "max\n")
    machine(f"cgroup/{used_in}/memory.max", 5 * GB)
    machine(f"cgroup/{used_in}/memory.current", 4 * GB)
    machine(f"cgroup/{used_in}/memory.stat", f"anon 1\ninactive_file {GB}\n")
    assert available_memory() == 2 * GB, "cached files can be dropped"


def test_a_control_group_of_version_1_limits_the_memory(machine):
    machine("proc/self/cgroup", "3:cpuset:/\n4:memory,hugetlb:/box\n0::/\n")
    machine("cgroup/memory/box/memory.limit_in_bytes", 3 * GB)
    machine("cgroup/memory/box/memory.usage_in_bytes", GB)
    assert available_memory() == 2 * GB


def test_a_group_beyond_its_limit_has_no_memory_left(machine):
    machine("proc/self/cgroup", "0::/\n")
    machine("cgroup/memory.max", GB)
    machine("cgroup/memory.current", 2 * GB)
    assert available_memory() == 0


def test_an_environment_variable_replaces_the_limit(machine, monkeypatch):
    monkeypatch.setenv(memory.MEMORY_VARIABLE, "12345")
    assert available_memory() == 12345
    monkeypatch.setenv(memory.MEMORY_VARIABLE, "off")
    assert available_memory() is None


def test_a_gpu_tells_its_memory(machine):
    def gpu(stats):
        return SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

    assert available_memory(gpu({"bytes_limit": 10, "bytes_in_use": 4})) == 6
    assert available_memory(gpu(None)) is None


def test_the_bytes_of_a_tree_are_those_of_its_arrays():
    tree = {"a": np.zeros((3, 5), np.float32), "b": (jnp.zeros(7, jnp.int8), jax.random.key(0))}
    assert tree_bytes(tree) == tree_bytes(jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))) == 60 + 7 + 8


def test_a_program_needs_its_arguments_its_results_and_what_is_between_them():
    def sort_twice(x):
        return jnp.sort(jnp.cumsum(jnp.sort(x)))[:10]

    x = jnp.arange(100_000.0)
    needed = compiled_memory(jax.jit(sort_twice).lower(x).compile())
    assert needed >= 2 * x.nbytes + 40, "x is kept, so that sorting it takes a second array"
    assert needed <= 8 * x.nbytes
