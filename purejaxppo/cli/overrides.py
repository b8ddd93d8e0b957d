"""The options of `purejaxppo train` read as the tables of a TOML file, so that both are checked by the same rules.

tyro parses the command line; but it stops at the first word that it cannot read, and we tell all that is wrong at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_type_hints

from purejaxppo._util.text import nearest
from purejaxppo.config.errors import Problem
from purejaxppo.config.schema import TABLES

TOP = {"env": str, "seed": int, "out": str}  # options that belong to no table


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each option, spelt as its key in a file, with the words that follow it."""
    option, values = "", []
    for word in words:
        if not word.startswith("--"):
            values.append(word)
            continue
        if option:
            yield option, values
        name, *rest = word[2:].split("=", 1)
        option, values = name.replace("-", "_"), rest
    if option:
        yield option, values


def _value(hint: Any, words: list[str]) -> Any:
    """Read words as a value of this type; what cannot be read stays text and is found wrong as such."""
    with suppress(ValueError):
        if hint in (int, float):
            return hint(" ".join(words))
        if hint == tuple[int, ...]:
            return [int(word) for word in words]
    flags = {"": True, "true": True, "false": False}
    text = " ".join(words)
    return flags.get(text.lower(), text) if hint is bool else text


def as_tables(words: Sequence[str]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the options as the tables of a TOML file (and `out`, as text), and those that do not exist as problems."""
    tables: dict[str, Any] = {}
    problems: list[Problem] = []
    for option, values in _grouped(words):
        table, dot, key = option.partition(".")
        if table in TABLES and dot:
            hints = get_type_hints(TABLES[table])
            negated = hints.get(key.removeprefix("no_")) is bool and key.startswith("no_") and not values
            name, value = (key[3:], False) if negated else (key, _value(hints.get(key), values))
            tables.setdefault(table, {})[name] = value
        elif option in TOP:
            tables[option] = _value(TOP[option], values)
        else:
            problems.append(_unknown(option))
    return tables, problems


def _unknown(option: str) -> Problem:
    table, dot, key = option.partition(".")
    shown = f"--{option.replace('_', '-')}"
    if table == "env_params":
        return Problem(shown, ": settings of the environment stand in the file, in the table [env_params]", "unknown")
    if table in TABLES:
        return Problem(
            shown, f": say which of its settings, as in {shown}.{next(iter(get_type_hints(TABLES[table])))}", "unknown"
        )
    near = nearest(table, [*TABLES, *TOP])[0]
    return Problem(shown, f": no such option; did you mean --{(near + dot + key).replace('_', '-')}?", "unknown")


def overlaid(file: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file with those of the options laid over them, key by key."""
    joined = dict(file)
    for name, value in options.items():
        both = isinstance(value, dict) and isinstance(joined.get(name), dict)
        joined[name] = {**joined[name], **value} if both else value
    return joined
