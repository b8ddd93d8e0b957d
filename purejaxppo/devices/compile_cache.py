"""The persistent cache of compiled programs."""

import hashlib
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

MIN_COMPILE_SECONDS = 0.3  # programs that compile faster are not kept


def use_compile_cache() -> None:
    """Make JAX keep compiled programs in `cache_folder`. JAX's own environment variables have priority."""
    import jax

    folder = None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else cache_folder()
    if folder is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def cache_folder() -> Path | None:
    """Return the folder of compiled programs, created if necessary; None if the cache is off or not safe to use.

    The environment variable PUREJAXPPO_COMPILE_CACHE is `off` or a folder. By default the folder is under
    XDG_CACHE_HOME or ~/.cache. Cached programs are executed without a check, so only the user may be able to write
    them. They run on one kind of processor only, after which the last component of the path is named.
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
    """Return a short name for this kind of processor and its instruction sets."""
    about = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
