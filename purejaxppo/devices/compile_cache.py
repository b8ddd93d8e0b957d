"""The persistent cache of compiled programs.

JAX reads and writes the entries. It tolerates an entry that it cannot read, but warns each time and never replaces it,
and it sets no limit to the size. `tidy` does both before a run: it removes entries that are damaged, and the oldest
ones beyond a size. Every step of it allows for other processes that use the folder at the same time.
"""

import hashlib
import json
import os
import platform
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MIN_COMPILE_SECONDS = 0.3  # programs that compile faster are not kept
MAX_BYTES = 2**30  # of all entries, unless PUREJAXPPO_COMPILE_CACHE_SIZE says otherwise

FOLDER_VARIABLE = "PUREJAXPPO_COMPILE_CACHE"
SIZE_VARIABLE = "PUREJAXPPO_COMPILE_CACHE_SIZE"

ENTRY = "*-cache"  # names of JAX's files
CHECKED = "checked.json"  # entries that have been read completely: name -> [size, time of the last change]
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how files of zstandard begin, which JAX uses instead of zlib where it is installed


def use_compile_cache() -> None:
    """Make JAX keep compiled programs in `cache_folder`. JAX's own environment variables have priority."""
    import jax

    folder = None if os.environ.get("JAX_COMPILATION_CACHE_DIR") else cache_folder()
    if folder is None:
        return
    tidy(folder, max_bytes())
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


# The folder ----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """Return the folder of compiled programs, created if necessary; None if the cache is off or not safe to use.

    The environment variable PUREJAXPPO_COMPILE_CACHE is `off` or a folder. By default the folder is under
    XDG_CACHE_HOME or ~/.cache. Programs are executed as they are found, so only the user may be able to write them;
    and they run on one kind of processor only, which names the last component of the path.
    """
    choice = os.environ.get(FOLDER_VARIABLE, "").strip()
    if choice.lower() in ("off", "0", "no", "false"):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = home if home.is_absolute() else Path.home() / ".cache"
    folder = Path(choice).expanduser() if choice else home / "purejaxppo" / "xla"
    inner = folder / _processor()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        inner.mkdir(mode=0o700, exist_ok=True)
        for path in (folder.resolve(), inner):
            if not _is_safe(path):
                return _off(f"{path} can be written by others, or is another user's")
        _close(inner)
    except OSError as error:
        return _off(f"{folder}: {error.strerror}")
    return inner


def _close(folder: Path) -> None:
    """Remove files that others could write, and close the folder to others. The mode of new files is JAX's choice.

    Raises:
        OSError: the folder or a file of it cannot be changed.
    """
    if not hasattr(os, "getuid") or not folder.stat().st_mode & 0o077:
        return
    for path in folder.iterdir():
        if not _is_safe(path):
            path.unlink(missing_ok=True)
    folder.chmod(0o700)


def _off(reason: str) -> None:
    print(f"purejaxppo: compile cache off: {reason}", file=sys.stderr)


def _is_safe(path: Path) -> bool:
    """Return whether a path is no link, and only this user can write it; also if it has just vanished."""
    if not hasattr(os, "getuid"):
        return True
    try:
        status = path.lstat()
    except FileNotFoundError:
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _processor() -> str:
    """Return a short name for this kind of processor and its instruction sets."""
    about = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return f"{platform.machine()}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


# The entries ---------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A compiled program in the cache."""

    path: Path
    size: int
    changed: int  # nanoseconds
    used: float  # seconds; the last read, where the file system keeps it, or the last change


def max_bytes() -> int:
    """Return the size that the entries are kept below: PUREJAXPPO_COMPILE_CACHE_SIZE in bytes, or 1 GiB."""
    given = os.environ.get(SIZE_VARIABLE, "").strip()
    if not given:
        return MAX_BYTES
    if given.isdecimal():
        return int(given)
    print(f"purejaxppo: {SIZE_VARIABLE} = {given}: expected a number of bytes; {MAX_BYTES} is used", file=sys.stderr)
    return MAX_BYTES


def tidy(folder: Path, limit: int) -> None:
    """Remove damaged entries, then the least recently used ones until the rest has at most `limit` bytes.

    Only entries that are new or changed since the last time are read. A file that another process removes or writes
    meanwhile is left out; removing one that is being written costs its program a compilation later.

    Args:
        folder: of the entries.
        limit: bytes.
    """
    checked = _read_checked(folder)
    sound: list[Entry] = []
    for entry in _entries(folder):
        if checked.get(entry.path.name) == [entry.size, entry.changed] or is_sound(entry.path):
            sound.append(entry)
        else:
            _remove(entry.path)
    total = sum(entry.size for entry in sound)
    for entry in sorted(sound, key=lambda entry: entry.used):
        if total <= limit:
            break
        _remove(entry.path)
        total -= entry.size
    _write_checked(folder, {entry.path.name: [entry.size, entry.changed] for entry in sound if entry.path.exists()})


def is_sound(path: Path) -> bool:
    """Return whether a file is a complete stream of zlib, whose checksum fits; one of zstandard if it has a beginning.

    A file of zstandard is checked by JAX alone, because the package is not needed otherwise.
    """
    stream = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            block = file.read(1 << 20)
            if block.startswith(ZSTANDARD):
                return len(block) > 2 * len(ZSTANDARD)
            while block:
                stream.decompress(block)
                block = file.read(1 << 20)
    except FileNotFoundError:
        return True
    except (OSError, zlib.error):
        return False
    return stream.eof and not stream.unused_data


def _entries(folder: Path) -> list[Entry]:
    found = []
    for path in folder.glob(ENTRY):
        with suppress(OSError):
            status = path.stat()
            found.append(Entry(path, status.st_size, status.st_mtime_ns, max(status.st_atime, status.st_mtime)))
    return found


def _remove(path: Path) -> None:
    """Remove an entry, and the file in which JAX may keep the time of its last use."""
    for file in (path, path.with_name(f"{path.name.removesuffix('-cache')}-atime")):
        with suppress(OSError):
            file.unlink()


def _read_checked(folder: Path) -> dict[str, list[int]]:
    try:
        checked = json.loads((folder / CHECKED).read_text())
    except (OSError, ValueError):
        return {}
    return checked if isinstance(checked, dict) else {}


def _write_checked(folder: Path, checked: dict[str, list[int]]) -> None:
    """Replace the file at once, so that another process reads the old list or the new one."""
    temporary = folder / f".{CHECKED}.{os.getpid()}.tmp"
    with suppress(OSError):
        temporary.write_text(json.dumps(checked))
        os.replace(temporary, folder / CHECKED)
    with suppress(OSError):
        temporary.unlink()
