"""The persistent cache of compiled programs."""

import hashlib
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path


def compile_cache() -> Path | None:
    """Return the folder of compiled programs, made if need be; None where the cache is off or not safe to use.

    PUREJAXPPO_COMPILE_CACHE is `off` or a folder; otherwise it lies under XDG_CACHE_HOME or ~/.cache. Programs are
    loaded from it as they are, so it must belong to the user alone; and they fit one kind of processor only.
    """
    choice = os.environ.get("PUREJAXPPO_COMPILE_CACHE", "").strip()
    if choice.lower() in ("off", "0", "no", "false"):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = home if home.is_absolute() else Path.home() / ".cache"
    folder = Path(choice).expanduser() if choice else home / "purejaxppo" / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        print(f"purejaxppo: compile cache off: {folder}: {error.strerror}", file=sys.stderr)
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        print(f"purejaxppo: compile cache off: {folder} can be written by others", file=sys.stderr)
        return None
    return folder / _processor()


def _processor() -> str:
    """A short name for this kind of processor and what it can do."""
    about = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def use_compile_cache() -> None:
    """Make JAX keep compiled programs in the folder of `compile_cache`."""
    import jax

    folder = None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else compile_cache()
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
