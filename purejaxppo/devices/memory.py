"""How much memory a device has, and how much a compiled program needs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from purejaxppo._util.aliases import Device, PyTree

MEMORY_VARIABLE = "PUREJAXPPO_MEMORY"

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
LIMIT_FILES = {"v1": ("memory.limit_in_bytes", "memory.usage_in_bytes"), "v2": ("memory.max", "memory.current")}


def available_memory(device: Device = None) -> int | None:
    """Return the bytes that a device can still allocate; None if that is not known.

    On a CPU these are the bytes of physical memory that no process uses, within the limits of the control groups of
    this process. The environment variable PUREJAXPPO_MEMORY replaces them: a number of bytes, or `off` for no limit.

    Args:
        device: the device; None: the first one.
    """
    given = os.environ.get(MEMORY_VARIABLE, "").strip()
    if given.lower() in ("off", "no", "false"):
        return None
    if given.isdecimal():
        return int(given)
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        return _host_memory()
    stats = device.memory_stats() or {}
    return max(stats["bytes_limit"] - stats.get("bytes_in_use", 0), 0) if "bytes_limit" in stats else None


def compiled_memory(compiled: Compiled) -> int:
    """Return the bytes that a compiled program needs on each of its devices while it runs, its arguments included."""
    stats = compiled.memory_analysis()
    if stats is None:
        return 0
    arrays = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return arrays + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes


def tree_bytes(tree: PyTree) -> int:
    """Return the bytes of all arrays of a tree, which may be abstract."""
    return sum(_leaf_bytes(x) for x in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.Array) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize


def _host_memory() -> int | None:
    """Return the bytes of physical memory that this process can still get."""
    found = _cgroup_memory()
    with suppress(OSError, ValueError, IndexError):
        lines = (PROC / "meminfo").read_text().splitlines()
        found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    if not found and hasattr(os, "sysconf"):
        with suppress(OSError, ValueError):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def _cgroup_memory() -> list[int]:
    """Return the bytes that each control group of this process can still allocate; none for those without a limit."""
    try:
        lines = (PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (CGROUPS / "memory", LIMIT_FILES["v1"]) if controllers else (CGROUPS, LIMIT_FILES["v2"])
        groups = [PurePosixPath(path), *PurePosixPath(path).parents]
        rooms = [_room(root / str(group).lstrip("/"), *files) for group in groups]
        found += [room for room in rooms if room is not None]
    return found


def _room(folder: Path, limit_file: str, usage_file: str) -> int | None:
    """Return the bytes left in one control group; None without a limit. Cached files do not count as used."""
    try:
        limit, used = (int((folder / name).read_text()) for name in (limit_file, usage_file))
    except (OSError, ValueError):  # "max": no limit
        return None
    cached = 0
    with suppress(OSError, ValueError):
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = int(entries.get("total_inactive_file", entries.get("inactive_file", "0")))
    return max(limit - max(used - cached, 0), 0)
