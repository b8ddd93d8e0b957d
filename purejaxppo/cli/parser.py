"""Parse the words of a command line; every problem is found, not only the first."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple, get_args

from purejaxppo.cli.options import Option
from purejaxppo.config.errors import Kind, Problem
from purejaxppo.config.names import suggestion
from purejaxppo.config.schema import TABLES
from purejaxppo.config.values import number_problems, wrong_type


class Parsed(NamedTuple):
    """The values that a command line gives, and its problems."""

    values: dict[str, Any]  # by field of the command; an invalid value is left out
    settings: dict[str, Any]  # tables of a TOML file, unchecked: they are checked together with the file
    problems: list[Problem]


def parse(words: Sequence[str], options: Sequence[Option]) -> Parsed:
    """Parse the words that follow the name of a command.

    `--name value` and `--name=value` are the same. The last component of a dotted name is enough if it is unique. A
    switch takes `true`, `false` or no value; its last component may begin with `no-` instead. A list takes all words up
    to the next option. Options may come before and after positional arguments.
    """
    return _Parser(words, options).parse()


class _Parser:
    def __init__(self, words: Sequence[str], options: Sequence[Option]):
        self.words = list(words)
        self.options = [option for option in options if not option.argument]
        self.arguments = [option for option in options if option.argument]
        self.has_settings = any(option.is_setting for option in options)
        self.result = Parsed({}, {}, [])
        self.unknown_took_words = False

    def parse(self) -> Parsed:
        while self.words:
            word = self.words.pop(0)
            if word.startswith("--") and len(word) > 2:
                self._read_option(word)
            elif self.arguments and self.arguments[0].hint == tuple[str, ...]:  # takes all that follow
                key = self.arguments[0].key
                self.result.values[key] = (*self.result.values.get(key, ()), word)
            elif self.arguments:
                self._keep(self.arguments.pop(0), [word])
            else:
                self._report(word, ": unexpected argument", "unknown")
        for missing in self.arguments:
            required = missing.default is MISSING and missing.unless not in self.result.values
            if required and not self.unknown_took_words:
                self._report(missing.argument, f": missing; {missing.help}", "missing")
        return self.result

    def _report(self, key: str, text: str, kind: Kind) -> None:
        self.result.problems.append(Problem(key, text, kind))

    def _read_option(self, word: str) -> None:
        name, equals, inline = word[2:].partition("=")
        key = name.replace("-", "_")
        option, negated = self._find(key)
        if option is None:
            self._report_unknown(f"--{name}", key)
            if not equals:
                self._skip_values()
            return
        values = [inline] if equals else [] if negated else self._take_values(option)
        if negated and not equals:
            values = ["false"]
        if not values and option.hint is not bool:
            self._report(option.flag, ": needs a value", "missing")
            return
        self._keep(option, values or ["true"])

    def _find(self, key: str) -> tuple[Option | None, bool]:
        """Return the option of this name, and whether the name negates a switch."""
        by_key = {option.key: option for option in self.options}
        if key in by_key:
            return by_key[key], False
        table, dot, last = key.rpartition(".")
        if last.startswith("no_"):
            option, negated = self._find(table + dot + last[3:])
            if option is not None and option.hint is bool and not negated:
                return option, True
        if not dot:
            same = [option for option in self.options if option.short_key == key]
            return (same[0] if len(same) == 1 else None), False
        if self.has_settings and table in (*TABLES, "env_params"):
            return Option(key, Any, None, "", is_setting=True), False  # checked with the file, or by the environment
        return None, False

    def _take_values(self, option: Option) -> list[str]:
        """Take the words that are values of an option."""
        values = []
        while self.words and not (self.words[0].startswith("--") and len(self.words[0]) > 2):
            if values and not _takes_many(option.hint):
                break
            optional = values or option.hint is bool
            if optional and self.arguments and not _looks_like(self.words[0], option.hint):
                break  # it is the positional argument that is still missing
            values.append(self.words.pop(0))
        return values

    def _skip_values(self) -> None:
        """Skip what may be the values of an unknown option."""
        while self.words and not self.words[0].startswith("--"):
            if self.arguments and self.words[0].endswith(".toml"):
                return
            self.unknown_took_words = True
            self.words.pop(0)

    def _keep(self, option: Option, words: list[str]) -> None:
        value = read_value(option.hint, words)
        if option.is_setting:
            table, dot, name = option.key.partition(".")
            place = self.result.settings.setdefault(table, {}) if dot else self.result.settings
            place[name if dot else table] = value
            return
        shown = option.argument or option.flag
        found = _own_problems(shown, value, option)
        self.result.problems.extend(found)
        if not found:
            self.result.values[option.key] = value

    def _report_unknown(self, flag: str, key: str) -> None:
        last = key.rpartition(".")[2]
        if self.has_settings and key in TABLES:
            example = next(option for option in self.options if option.key.startswith(f"{key}."))
            self._report(flag, f": say which of its settings, as in {example.flag}", "unknown")
            return
        short = {option.short_key: option for option in self.options}
        near = suggestion(last if last in short else key, short)
        self._report(flag, ": no such option" + (f"; did you mean {short[near].flag}?" if near else ""), "unknown")


def _takes_many(hint: Any) -> bool:
    return hint is Any or hint in (tuple[int, ...], tuple[str, ...])


def _looks_like(word: str, hint: Any) -> bool:
    """Return whether a word can be a value of this type rather than a positional argument."""
    if hint is bool:
        return word.lower() in ("true", "false")
    if hint in (tuple[int, ...], Any):
        return not isinstance(read_value(Any, [word]), str) or "," in word
    return True


def read_value(hint: Any, words: Sequence[str]) -> Any:
    """Return words as a value of this type. Words that cannot be read stay text, which the checks refuse."""
    text = " ".join(words)
    with suppress(ValueError):
        if hint in (int, float):
            return hint(text)
        if hint == tuple[int, ...]:
            return [int(word) for word in text.replace(",", " ").split()]
    if hint == tuple[str, ...]:
        return tuple(words)
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if Path in (hint, *get_args(hint)):
        return Path(text)
    if hint is Any:
        values = [read_literal(word) for word in words]
        return values[0] if len(values) == 1 else values
    return text


def read_literal(word: str) -> Any:
    """Return a word as the integer, float, boolean or string that it looks like."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return {"true": True, "false": False}.get(word.lower(), word)


def _own_problems(key: str, value: Any, option: Option) -> list[Problem]:
    """Check the value of an option that is not a setting."""
    if option.hint is bool and not isinstance(value, bool):
        return [wrong_type(key, value, "true or false")]
    if option.hint in (int, float):
        return number_problems(key, value, option.hint, option.interval or "[-inf, inf]")
    if "\0" in str(value):
        return [Problem(key, ": contains a NUL character", "type")]
    return []
