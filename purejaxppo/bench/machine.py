"""Describe the machine and measure its limits."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

from purejaxppo._util.version import __version__
from purejaxppo.bench.timing import Report, TimingBudget, repeat, time_call
from purejaxppo.devices.cpu import count_cores, prepare_cpu


def describe_machine() -> Report:
    """Describe the hardware as JAX and the operating system name it."""
    prepare_cpu()
    device = jax.devices()[0]
    return {
        "cpu": _cpu_name(),
        "cores": count_cores(),
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def measure_ceilings(budget: TimingBudget) -> Report:
    """Measure the limits of the machine: FLOP/s of a large float32 product, bytes/s of a triad.

    The product has JAX's default precision, as the products of a network have: TF32 on GPUs that support it.
    The triad a + s b reads two arrays and writes one.
    """
    on_cpu = jax.devices()[0].platform == "cpu"
    side, length = (2048, 2**25) if on_cpu else (8192, 2**28)
    square = jnp.ones((side, side))
    product = jax.jit(lambda a: a @ a)
    a, b = jnp.ones(length), jnp.ones(length)
    triad = jax.jit(lambda a, b: a + 3.0 * b)
    product_s = time_call(repeat(lambda: product(square)), budget)
    triad_s = time_call(repeat(lambda: triad(a, b)), budget)
    return {"matmul_flops_per_s": 2.0 * side**3 / product_s.min, "memory_bytes_per_s": 12.0 * length / triad_s.min}


def versions() -> dict[str, str]:
    """Return the versions of the libraries that determine speed."""
    ours = {"purejaxppo": __version__, "python": platform.python_version()}
    return ours | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}


def environment_flags() -> dict[str, str]:
    """Return the environment variables of this process that configure XLA and JAX."""
    return {name: text for name, text in sorted(os.environ.items()) if name.startswith(("XLA_", "JAX_"))}
