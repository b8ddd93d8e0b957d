"""The settings of a run: where they come from, and what they mean for the process that trains."""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purejaxppo._util.text import nearest
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import suggestion
from purejaxppo.config.schema import Run
from purejaxppo.config.shipped import shipped_configs, tuned_config
from purejaxppo.config.toml import from_tables, parse_tables, read_text
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.intervals import DEFAULT_INTERVAL, Interval, parse_interval


def find_settings(name: str) -> tuple[str, str]:
    """Return the settings that an argument CONFIG names, as (text of a TOML file, where it comes from).

    Raises:
        ConfigError: the file cannot be read, or no shipped config of a folder such as "suites" has this name.
    """
    if not name:
        return "", "train"
    if name.endswith(".toml") or "\0" in name or Path(name).is_file():
        return read_text(name), name
    shipped = shipped_configs()
    if name in shipped:
        return read_text(shipped[name]), str(shipped[name])
    folder, slash, _ = name.partition("/")
    neighbors = [known for known in shipped if slash and known.startswith(f"{folder}/")]
    if neighbors:
        similar = ", ".join(nearest(name, neighbors, 3))
        raise ConfigError(
            [Problem("unknown config", f"; similar: {similar} (`purejaxppo configs` lists all)", "choice")], name
        )
    file = tuned_config(name)
    if file is None:
        # most ids of environments have capitals
        similar = suggestion(name, shipped) if name.replace("_", "").islower() else ""
        hint = f"; similar config: {similar}" if similar else ""
        return f"env = {_quoted(name)}", f"{name} (default settings{hint})"
    text = read_text(file)
    own = parse_tables(text)["env"]
    return text.replace(f'env = "{own}"', f"env = {_quoted(name)}", 1), str(file)


def _quoted(text: str) -> str:
    """Return a text as a TOML string."""
    import tomli_w

    return tomli_w.dumps({"x": text}).partition("= ")[2].strip()


def overlay(file: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file with those of the options laid over them, key by key."""
    joined = dict(file)
    for name, value in options.items():
        both = isinstance(value, dict) and isinstance(joined.get(name), dict)
        joined[name] = {**joined[name], **value} if both else value
    return joined


def default_run(name: str, changes: Mapping[str, Any]) -> Run:
    """Return the settings that `--help` shows as defaults: those of CONFIG, with `changes` laid over them.

    Raises:
        ConfigError: the file cannot be read.
    """
    text, source = find_settings(name)
    return from_tables(overlay(parse_tables(text, source), changes))[0]


def read_interval(text: str) -> tuple[Interval, list[Problem]]:
    """Return the interval between checkpoints that an option gives, and its problems."""
    try:
        return parse_interval(text), []
    except ValueError as error:
        return DEFAULT_INTERVAL, [Problem("--checkpoint-every", f": {error}", "type")]


def prepare_for(run: Run, fast_flags: bool) -> None:
    """Configure JAX and XLA for the size of the run. Invalid settings are reported later, by `build`."""
    from purejaxppo.devices.cpu import prepare_cpu

    fast = True if fast_flags else None
    try:
        num_seeds = 1 if run.config.num_devices <= 1 else None
        prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, num_seeds, fast)
    except (TypeError, ZeroDivisionError):
        prepare_cpu(fast_flags=fast)


def prepare_compilation() -> None:
    """Use the cache of compiled programs, and make tracing faster."""
    use_compile_cache()
    gc.freeze()  # otherwise each collection during tracing scans all of JAX, a fifth of the time of tracing
