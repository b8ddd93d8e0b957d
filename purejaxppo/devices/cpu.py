"""Configure XLA and JAX for PPO on a CPU."""

from __future__ import annotations

import os
import warnings

import jax

SMALL_MINIBATCH = 512  # samples

EXTRA_OPTIONS = "xla_backend_extra_options"  # one flag that holds a list of options, separated by commas

# Flags of code generation. They switch on no compiler pass that XLA leaves off.
CPU_FLAGS = {"xla_cpu_prefer_vector_width": "512"}

# For small minibatches.
SMALL_FLAGS = {
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
    EXTRA_OPTIONS: "xla_cpu_small_while_loop_byte_threshold=32768",
}

# Passes that XLA leaves off on CPU. Multi-output fusion makes the compiler of jaxlib 0.10.2 abort on some programs
# (SpaceInvaders-MinAtar is one), and a process cannot catch that.
FAST_FLAGS = {
    "xla_cpu_copy_insertion_use_region_analysis": "true",
    EXTRA_OPTIONS: "xla_cpu_use_multi_output_fusion",
}

FAST_FLAGS_VARIABLE = "PUREJAXPPO_FAST_FLAGS"


def prepare_cpu(
    minibatch_size: int | None = None, num_seeds: int | None = None, fast_flags: bool | None = None
) -> None:
    """Configure JAX and XLA for PPO on a CPU. Call it before JAX runs its first operation.

    Each core becomes one device, unless JAX_NUM_CPU_DEVICES is set. A single CPU device parallelizes individual
    operations and reaches about half of the cores' throughput; one device per core with sharded work loses little.
    A single run with small minibatches cannot be sharded profitably and gets one device.

    The flags of `xla_flags` are appended to XLA_FLAGS. A flag that is set there already keeps its value.

    Args:
        minibatch_size: samples of a minibatch. None: unknown, treated as large.
        num_seeds: runs that share the program. None: unknown, treated as many.
        fast_flags: whether to enable compiler passes that XLA leaves off by default. They make some workloads faster,
            but the compiler aborts the process on some programs. None: on if the environment variable
            PUREJAXPPO_FAST_FLAGS is set to anything but 0, false, no or off.

    Warns:
        UserWarning: JAX has already started on a CPU and runs with other settings, which cannot be changed.
    """
    few = minibatch_size is not None and minibatch_size <= SMALL_MINIBATCH
    num_devices = 1 if few and num_seeds == 1 else count_cores()
    missing = _missing_flags(minibatch_size, _fast_flags_wanted() if fast_flags is None else fast_flags)
    choose_devices = "JAX_NUM_CPU_DEVICES" not in os.environ
    if _has_started():
        on_cpu = jax.default_backend() == "cpu"
        if on_cpu and (missing or (choose_devices and jax.local_device_count() != num_devices)):
            message = "prepare_cpu has no effect: JAX has already started; call it before the first JAX operation"
            warnings.warn(message, UserWarning, stacklevel=2)
        return
    if choose_devices:
        jax.config.update("jax_num_cpu_devices", num_devices)
    if missing:
        os.environ["XLA_FLAGS"] = " ".join([*os.environ.get("XLA_FLAGS", "").split(), *missing])


def xla_flags(minibatch_size: int | None = None, fast_flags: bool = False) -> dict[str, str]:
    """Return the XLA flags for PPO on a CPU, by name.

    By default they choose vectors of 512 bits (a CPU without them splits each into two of 256). For small minibatches
    the next operation starts on the core that ran the last one, and loops over little data, such as those of random
    bits, become one function each.

    Args:
        minibatch_size: samples of a minibatch. None: unknown, treated as large.
        fast_flags: whether to add passes that XLA leaves off by default: several results from one kernel, and a search
            for copies that can be omitted.

    Returns:
        Flag names without dashes -> values. Empty for versions of JAX with which the flags are not tested, because XLA
        ends the process over a flag that it does not know.
    """
    if not (0, 7) <= jax.__version_info__[:2] < (0, 12):
        return {}
    few = minibatch_size is not None and minibatch_size <= SMALL_MINIBATCH
    flags: dict[str, str] = {}
    for group in (CPU_FLAGS, SMALL_FLAGS if few else {}, FAST_FLAGS if fast_flags else {}):
        for name, value in group.items():
            flags[name] = f"{flags[name]},{value}" if name in flags else value
    return flags


def _missing_flags(minibatch_size: int | None, fast_flags: bool) -> list[str]:
    """Return the flags that XLA_FLAGS does not set yet, each as an argument."""
    present = {argument.lstrip("-").split("=", 1)[0] for argument in os.environ.get("XLA_FLAGS", "").split()}
    wanted = xla_flags(minibatch_size, fast_flags)
    return [f"--{name}={value}" for name, value in wanted.items() if name not in present]


def _fast_flags_wanted() -> bool:
    """Return whether the environment variable asks for the flags that XLA leaves off."""
    return os.environ.get(FAST_FLAGS_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_started() -> bool:
    """Return whether JAX has initialized its devices, after which their number cannot be set."""
    current = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", current + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", current)
    return False
