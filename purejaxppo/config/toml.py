"""Read and write settings as TOML."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from purejaxppo._util.text import nearest
from purejaxppo.config.checks import check, is_int, value_problems, wrong_type
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import TABLES, Run


def _unknown_key(key: str, table: str, names: Iterable[str]) -> Problem:
    owners = [other for other, cls in TABLES.items() if key in get_type_hints(cls) and other != table]
    shown = f"{table}.{key}" if table else key
    if owners:
        return Problem(shown, f": no such key here; it belongs in [{owners[0]}]")
    if table and key in ("env", "seed"):
        return Problem(shown, ": no such key here; it belongs at the top of the file, before any [table]")
    return Problem(shown, f": no such key; did you mean {nearest(key, names)[0]}?")


def _read_table(name: str, given: Any) -> tuple[Any, list[Problem]]:
    """Build the Config, NetworkConfig or Hyperparams of one TOML table; faulty values keep their default."""
    cls = TABLES[name]
    if not isinstance(given, dict):
        return cls(), [wrong_type(name, given, f"a table [{name}]")]
    hints = get_type_hints(cls)
    values, problems = {}, []
    for key, value in given.items():
        found = value_problems(f"{name}.{key}", value, hints[key]) if key in hints else [_unknown_key(key, name, hints)]
        problems += found
        if not found:
            values[key] = float(value) if hints[key] is float else tuple(value) if isinstance(value, list) else value
    return cls(**values), problems


def from_tables(given: Mapping[str, Any]) -> tuple[Run, list[Problem]]:
    """Return the Run that the tables of a TOML file describe, and what is wrong; faulty values keep their default."""
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
            found = [_unknown_key(key, "", hints)]
        if not found:
            values.setdefault(key, value)
        problems += found
    return Run(**values), problems


def parse_toml(text: str) -> tuple[Run, list[Problem]]:
    """Return `from_tables` of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: the text is no TOML.
    """
    return from_tables(tomllib.loads(text))


def read_tables(path: str | Path) -> dict[str, Any]:
    """Return what a TOML file holds, unchecked.

    Raises:
        ConfigError: the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem("not valid TOML", f": {error}")], str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem("not a text file", ": TOML is written in UTF-8")], str(path)) from None
    except OSError as error:
        raise ConfigError([Problem("cannot be read", f": {error.strerror or error}")], str(path)) from None


def read_toml(path: str | Path) -> tuple[Run, list[Problem]]:
    """Return the Run in a TOML file and what is wrong with it; faulty values keep their default.

    Raises:
        ConfigError: the file cannot be read, or is no TOML.
    """
    return from_tables(read_tables(path))


def load_toml(path: str | Path) -> Run:
    """Return the Run in a TOML file.

    Raises:
        ConfigError: with every problem at once: keys, types, ranges, and what must fit together.
    """
    run, problems = read_toml(path)
    return check(run, problems, str(path))


def _plain(key: str, value: Any) -> Any:
    """Turn one value into what TOML can hold."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, tuple):
        return [_plain(key, v) for v in value]
    if is_int(value):
        return int(value)
    if hasattr(value, "dtype"):
        if value.shape != ():
            raise ConfigError([Problem(key, f": an array of shape {value.shape} is not one run's setting")])
        return float(value)
    return value


def dump_toml(run: Run) -> str:
    """Return `run` as TOML, with every setting written out; `load_toml` of it gives the same Run.

    Raises:
        ConfigError: a hyperparameter is an array of several numbers.
    """
    import tomli_w

    tables: dict[str, Any] = {"env": run.env, "seed": int(run.seed)}
    if run.env_params:
        tables["env_params"] = dict(run.env_params)
    for name, cls in TABLES.items():
        part = getattr(run, name)
        hints = get_type_hints(cls)
        values = {key: _plain(f"{name}.{key}", getattr(part, key)) for key in hints}
        tables[name] = {key: float(v) if hints[key] is float else v for key, v in values.items()}
    return tomli_w.dumps(tables)
