"""Read and write settings as TOML."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from purejaxppo._util.version import __version__
from purejaxppo.config.checks import check
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.names import place_of, suggestion
from purejaxppo.config.schema import TABLES, TOP_LEVEL, Run, table_names
from purejaxppo.config.values import is_int, value_problems, wrong_type


def load_toml(path: str | Path) -> Run:
    """Return the Run of a TOML file.

    Raises:
        ConfigError: with every problem at once: unknown keys, types, intervals, and settings that do not fit together.
    """
    text = read_text(path)
    run, problems = parse_toml(text, str(path))
    return check(run, problems, name_source(str(path), text))


def read_text(path: str | Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        problem = Problem("not a text file", ": a TOML file is encoded as UTF-8", "file")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = Problem("cannot be read", f": {getattr(error, 'strerror', None) or error}", "file")
    raise ConfigError([problem], str(path))


def read_tables(path: str | Path) -> dict[str, Any]:
    """Return the content of a TOML file, unchecked.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    return parse_tables(read_text(path), str(path))


def parse_tables(text: str, source: str = "") -> dict[str, Any]:
    """Return the content of a TOML text, unchecked.

    Raises:
        ConfigError: the text is not TOML; the message begins with `source`.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        reason = "tables or lists are nested too deeply"
    except ValueError as error:  # TOMLDecodeError, or an integer of too many digits
        reason = str(error)
    raise ConfigError([Problem("not valid TOML", f": {reason}", "file")], source)


def parse_toml(text: str, source: str = "") -> tuple[Run, list[Problem]]:
    """Return the Run of a TOML text and its problems; invalid values are replaced by their defaults.

    Raises:
        ConfigError: the text is not TOML; the message begins with `source`.
    """
    return from_tables(parse_tables(text, source))


def from_tables(given: Mapping[str, Any]) -> tuple[Run, list[Problem]]:
    """Return the Run of a TOML file's tables and its problems; invalid values are replaced by their defaults."""
    hints = get_type_hints(Run)
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in given.items():
        if key in TABLES:
            values[key], found = _read_table(key, value)
        elif key == "env_params":
            found = [] if isinstance(value, dict) else [wrong_type(key, value, "a table [env_params]")]
        elif key in hints:
            found = value_problems(key, value, hints[key])
        else:
            found = [unknown_key(key, "", hints)]
        if not found:
            values.setdefault(key, value)
        problems += found
    return Run(**values), problems


def _read_table(name: str, given: Any) -> tuple[Any, list[Problem]]:
    """Return the Config, NetworkConfig or Hyperparams of a TOML table, and its problems."""
    cls = TABLES[name]
    if not isinstance(given, dict):
        return cls(), [wrong_type(name, given, f"a table [{name}]")]
    hints = get_type_hints(cls)
    values, problems = {}, []
    for key, value in given.items():
        found = value_problems(f"{name}.{key}", value, hints[key]) if key in hints else [unknown_key(key, name, hints)]
        problems += found
        if not found:
            values[key] = float(value) if hints[key] is float else tuple(value) if isinstance(value, list) else value
    return cls(**values), problems


def unknown_key(key: str, table: str, names: Iterable[str]) -> Problem:
    """Return the problem of a key that is not one of the `names` of a table; `table` is "" at the top of a file."""
    shown = f"{table}.{key}" if table else key
    if place := place_of(key, table, table_names()):
        return Problem(shown, f": no such key here; it belongs in [{place}]", "unknown")
    if table and key in TOP_LEVEL:
        return Problem(shown, ": no such key here; it belongs at the top of the file, before any [table]", "unknown")
    near = suggestion(key, names)
    return Problem(shown, ": no such key" + (f"; did you mean {near}?" if near else ""), "unknown")


# ---- writing

HEADER = "# All settings of a run, written by purejaxppo"


def dump_toml(run: Run) -> str:
    """Return `run` as TOML, with every setting written out; `parse_toml` of it returns the same Run.

    Raises:
        ConfigError: a hyperparameter is an array of several numbers.
    """
    import tomli_w

    tables: dict[str, Any] = {"env": run.env, "seed": int(run.seed), "evaluate_every": int(run.evaluate_every)}
    if run.env_params:
        tables["env_params"] = dict(run.env_params)
    for name, cls in TABLES.items():
        table = getattr(run, name)
        hints = get_type_hints(cls)
        values = {key: _plain(f"{name}.{key}", getattr(table, key)) for key in hints}
        tables[name] = {key: float(v) if hints[key] is float else v for key, v in values.items()}
    return f"{HEADER} {__version__}\n{tomli_w.dumps(tables)}"


def _plain(key: str, value: Any) -> Any:
    """Convert one value to a type that TOML has."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, tuple):
        return [_plain(key, v) for v in value]
    if is_int(value):
        return int(value)
    if hasattr(value, "dtype"):
        if value.shape != ():
            raise ConfigError([Problem(key, f": an array of shape {value.shape} is not one run's setting", "type")])
        return float(value)
    return value


def name_source(name: str, text: str) -> str:
    """Return the name of a TOML text for messages, with the version that wrote it if that is another one."""
    written = re.match(rf"{HEADER} (\S+)", text)
    if written is None or written[1] == __version__:
        return name
    return f"{name} (written by purejaxppo {written[1]}; this is {__version__})"
