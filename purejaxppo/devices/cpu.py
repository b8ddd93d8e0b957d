"""Configure XLA and JAX for PPO on a CPU."""

from __future__ import annotations

import contextlib
import os

import jax

SMALL_MINIBATCH = 512

OUTPUTS = "xla_cpu_use_multi_output_fusion"

CPU_FLAGS = {
    "xla_cpu_prefer_vector_width": "512",
    "xla_cpu_copy_insertion_use_region_analysis": "true",
    "xla_backend_extra_options": OUTPUTS,
}

SMALL_FLAGS = {  # where minibatches are small
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
    "xla_backend_extra_options": f"{OUTPUTS},xla_cpu_small_while_loop_byte_threshold=32768",
}


def prepare_cpu(minibatch_size: int | None = None, num_seeds: int | None = None) -> None:
    """Set a CPU up for PPO; to be called before JAX looks for devices, later it does nothing.

    Each core becomes a device of its own, unless JAX_NUM_CPU_DEVICES is set: one program on one device spreads single
    operations over the cores, which loses half of what they could do; a share of the work for each loses little.
    minibatch_size: samples. Where they are few, the next operation starts on the core that has done the last one, and
    loops over little data, such as those of random bits, become one function each. If moreover num_seeds = 1, there is
    nothing to share out and no second device.

    For any size XLA_FLAGS gets, unless they are there: vectors of 512 bits, which a CPU without them takes for two of
    256; a search for copies that may be left out, as XLA does it on GPUs; and several results from one kernel.
    """
    few = minibatch_size is not None and minibatch_size <= SMALL_MINIBATCH
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", 1 if few and num_seeds == 1 else cores)
    flags = os.environ.get("XLA_FLAGS", "")
    if (0, 7) <= jax.__version_info__[:2] < (0, 12):  # XLA ends the process over a flag that it does not know
        wanted = CPU_FLAGS | (SMALL_FLAGS if few else {})
        more = [f"--{name}={value}" for name, value in wanted.items() if name not in flags]
        os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *more])
