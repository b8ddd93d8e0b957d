"""The text of `--help`."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from purejaxppo.cli.options import Option
from purejaxppo.config.schema import TABLES
from purejaxppo.config.values import show_value

INDENT = 26  # column of the descriptions


def command_help(name: str, about: str, options: Sequence[Option]) -> str:
    """Return the help of one command.

    Args:
        name: of the command.
        about: description of the command, a docstring.
        options: all of its options and positional arguments.
    """
    arguments = [option for option in options if option.argument]
    usage = [f"[{o.argument}]" if o.default is not MISSING else o.argument for o in arguments]
    parts = [f"usage: purejaxppo {' '.join([name, *usage, '[options]'])}", _paragraphs(about)]
    if arguments:
        parts.append("\n".join(_entry(option.argument, option) for option in arguments))
    own = [option for option in options if not option.argument and "." not in option.key]
    help_entry = _columns("-h, --help", "show this text and exit")
    parts.append("\n".join(["options:", *(_entry(_signature(option), option) for option in own), help_entry]))
    for table, cls in TABLES.items():
        entries = [_entry(_signature(option), option) for option in options if option.key.startswith(f"{table}.")]
        if entries:
            parts.append("\n".join([textwrap.fill(f"{table}: {_summary(cls.__doc__)}", _width()), *entries]))
    return "\n\n".join(parts)


def general_help(commands: Sequence[tuple[str, str]], about: str) -> str:
    """Return the help of `purejaxppo` itself.

    Args:
        commands: (name, docstring) of every command.
        about: description of the program.
    """
    listed = [_columns(name, _summary(doc)) for name, doc in commands]
    entries = [_columns("--version", "print the version and exit"), _columns("-h, --help", "show this text and exit")]
    parts = ["usage: purejaxppo COMMAND [options]", _paragraphs(about), "\n".join(["commands:", *listed])]
    parts += ["\n".join(["options:", *entries]), "`purejaxppo COMMAND --help` describes a command."]
    return "\n\n".join(parts)


def _summary(doc: str | None) -> str:
    """Return the first sentence of a docstring."""
    return (doc or "").strip().split("\n\n")[0].split(". ")[0].rstrip(".")


def _paragraphs(doc: str) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), _width()) for part in doc.strip().split("\n\n"))


def _width() -> int:
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def _columns(left: str, right: str) -> str:
    """Return an entry: its signature on the left, its description on the right, or below if the left is too wide."""
    room = _width() - INDENT
    lines = [line for part in right.split("\n") for line in textwrap.wrap(part, room)] or [""]
    indented = [" " * INDENT + line for line in lines]
    if len(left) + 4 > INDENT:
        return "\n".join([f"  {left}", *indented])
    return "\n".join([f"  {left}".ljust(INDENT) + lines[0], *indented[1:]]).rstrip()


def _signature(option: Option) -> str:
    return f"{option.flag} {_value_name(option.hint)}".rstrip()


def _value_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    names = {int: "INT", float: "FLOAT", bool: "[true|false]", str: "TEXT", tuple[int, ...]: "INT ..."}
    names |= {tuple[str, ...]: "TEXT ..."}
    return "PATH" if Path in (hint, *get_args(hint)) else names[hint]


def _entry(left: str, option: Option) -> str:
    default = option.default
    if default is MISSING or default is None or default in ("", ()):
        return _columns(left, option.help)
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else show_value(default).strip('"')
    return _columns(left, f"{option.help} (default: {shown})".lstrip())
