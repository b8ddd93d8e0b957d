"""Every setting with every kind of bad value: one message that names it, exit code 2, no traceback, nothing written."""

from typing import get_type_hints

import pytest
from command_line import TINY

from purejaxppo.cli import run_settings, train_command
from purejaxppo.cli.main import main
from purejaxppo.config.schema import TABLES, TOP_LEVEL, Run

pytestmark = pytest.mark.slow  # a minute: some 800 command lines

VALUES = {
    "text": '"?"',
    "boolean": "true",
    "nan": "nan",
    "infinite": "inf",
    "negative": "-3",
    "zero": "0",
    "huge": "1" + "0" * 30,
    "empty list": "[]",
    "list": "[1.5]",
    "table": "{a = 1}",
    "empty text": '""',
}

SETTINGS = [("", name) for name in TOP_LEVEL] + [
    (table, name) for table, cls in TABLES.items() for name in get_type_hints(cls)
]


class BeganError(Exception):
    """All checks passed."""


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch):
    """Stop where the checks of the settings, of the environment and of the network have passed."""

    def began(*_, **__):
        raise BeganError

    monkeypatch.setattr("purejaxppo.assembly.make_ppo", began)
    monkeypatch.setattr(train_command, "prepare_for", lambda *_: None)
    monkeypatch.setattr(run_settings, "use_compile_cache", lambda: None)


def file_with(table: str, line: str) -> str:
    """Return valid settings of which one line is replaced."""
    name = line.partition(" =")[0]
    kept = [old for old in TINY.splitlines() if old.partition(" =")[0] != name]
    if not table:
        return "\n".join([line, *kept])
    head = f"[{table}]"
    if head not in kept:
        kept += [head]
    place = kept.index(head) + 1
    return "\n".join([*kept[:place], line, *kept[place:]])


def is_number(hint) -> bool:
    return hint in (int, float)


def must_fail(hint, kind: str) -> bool:
    """Return whether no setting of this type has such a value; the others may be valid, such as zero."""
    if hint is bool:
        return kind != "boolean"
    if is_number(hint):
        return kind in ("text", "boolean", "nan", "empty list", "list", "table", "empty text") or (
            hint is int and kind in ("infinite", "huge")
        )
    return kind not in ("text", "empty text", "empty list")  # a name, or a list of sizes


@pytest.mark.parametrize(("table", "name"), SETTINGS, ids=lambda part: part)
def test_bad_values_of_a_setting_are_named(tmp_path, capsys, table, name):
    hint = get_type_hints(TABLES[table] if table else Run)[name]
    key = f"{table}.{name}" if table else name
    path = tmp_path / "settings.toml"
    for kind, value in VALUES.items():
        path.write_text(file_with(table, f"{name} = {value}"))
        try:
            code = main(["train", str(path), "--out", str(tmp_path / "run")])
        except BeganError:
            assert not must_fail(hint, kind), (key, kind)
            continue
        message = capsys.readouterr().err
        assert (code, message.count("purejaxppo: error")) == (2, 1), (key, kind, message)
        assert key in message, (key, kind, message)
        assert "Traceback" not in message
    assert {entry.name for entry in tmp_path.iterdir()} == {"settings.toml"}


@pytest.mark.parametrize("table", ["", *TABLES])
def test_an_unknown_setting_is_named(tmp_path, capsys, table):
    path = tmp_path / "settings.toml"
    path.write_text(file_with(table, "no_such_setting = 1"))
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "no_such_setting: no such key" in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"settings.toml"}
