"""Options of the commands, read from their dataclasses: name, type, default and help text."""

import ast
import inspect
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from io import StringIO
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from purejaxppo.config.schema import TABLES, TOP_LEVEL, Run


class Argument(NamedTuple):
    """Marks a field as a positional argument: `file: Annotated[str, Argument("FILE")]`."""

    name: str  # shown in the usage line
    unless: str = ""  # the option with which the argument may be left out


class Interval(NamedTuple):
    """Marks the interval of a number: `count: Annotated[int, Interval("[1, 10]")] = 1`."""

    text: str  # in the notation of `purejaxppo.config.values.INTERVALS`


class Settings:
    """Marks a field as the settings of a Run: `changes: Annotated[dict, Settings]` holds tables of a TOML file."""


class Option(NamedTuple):
    """One option or positional argument of a command."""

    key: str  # field of the command, or dotted key of a setting, such as config.num_envs
    hint: Any  # type of the value
    default: Any  # MISSING if the value is required
    help: str
    argument: str = ""  # name of a positional argument; "" for an option
    unless: str = ""  # key of the option with which the argument may be left out
    interval: str = ""  # of a number; "" if any is valid, or if the setting is checked with the file
    is_setting: bool = False  # belongs to the settings of a Run

    @property
    def flag(self) -> str:
        """The spelling on the command line, such as --config.num-envs."""
        return "--" + self.key.replace("_", "-")

    @property
    def short_key(self) -> str:
        """The last component of the key, which is enough on the command line if it is unique."""
        return self.key.rpartition(".")[2]


def options_of(command: type, run: Run | None = None) -> list[Option]:
    """Return the options of a command in the order of its fields; those of settings have the values of `run`."""
    texts = field_comments(command)
    hints = get_type_hints(command, include_extras=True)
    found: list[Option] = []
    for field in fields(command):
        hint, marks = hints[field.name], ()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        if Settings in marks:
            found += _settings_options(run or Run())
            continue
        argument = next((mark for mark in marks if isinstance(mark, Argument)), Argument(""))
        interval = next((mark.text for mark in marks if isinstance(mark, Interval)), "")
        found.append(Option(field.name, hint, field.default, texts.get(field.name, ""), *argument, interval))
    return found


def _settings_options(run: Run) -> Iterator[Option]:
    texts = field_comments(Run)
    for name in TOP_LEVEL:
        yield Option(name, get_type_hints(Run)[name], getattr(run, name), texts.get(name, ""), is_setting=True)
    for table, cls in TABLES.items():
        texts = field_comments(cls)
        for name, hint in get_type_hints(cls).items():
            default = getattr(getattr(run, table), name)
            yield Option(f"{table}.{name}", hint, default, texts.get(name, ""), is_setting=True)


def field_comments(cls: type) -> dict[str, str]:
    """Return the comment next to each field of a class; {} if its source is not available."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    by_line = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    declared = [node for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: by_line[node.end_lineno] for node in declared if node.end_lineno in by_line}  # type: ignore


class Command(NamedTuple):
    """One command of `purejaxppo`."""

    options: type  # dataclass; its docstring describes the command
    run: Callable[..., int]  # (options, problems found in the command line) -> exit code


def build_options(command: type, values: Mapping[str, Any]) -> Any:
    """Return the dataclass of a command with these values; a required value that is missing is empty."""
    empty = {option.key: option.hint() for option in options_of(command) if option.default is MISSING}
    return command(**(empty | dict(values)))
