"""Options are read from dataclasses: comments are help texts, annotations mark positional arguments and intervals."""

from dataclasses import MISSING, dataclass
from typing import Annotated, get_type_hints

import pytest

from purejaxppo.cli.commands import COMMANDS
from purejaxppo.cli.options import Argument, build_options, field_comments, options_of
from purejaxppo.config.schema import TABLES, TOP_LEVEL, Config, Run


@dataclass(frozen=True)
class Toy:
    """A command."""

    file: Annotated[str, Argument("FILE")]  # a file # with a hash
    wide: tuple[int, ...] = ()  # on the last line
    bare: int = 3


def test_the_comment_beside_a_field_is_its_help():
    assert field_comments(Toy) == {"file": "a file # with a hash", "wide": "on the last line"}
    assert field_comments(dict) == {}  # no source


def test_every_setting_and_every_option_has_a_help_text():
    for name, command in COMMANDS.items():
        for option in options_of(command.options):
            assert option.help, (name, option.key)


def test_a_command_with_settings_has_all_of_them_with_the_values_of_a_run():
    options = {option.key: option for option in options_of(COMMANDS["train"].options, Run(config=Config(num_envs=7)))}
    expected = {f"{table}.{name}" for table, cls in TABLES.items() for name in get_type_hints(cls)}
    assert {key for key, option in options.items() if option.is_setting} == expected | set(TOP_LEVEL)
    assert options["config.num_envs"].default == 7
    assert options["config.num_envs"].flag == "--config.num-envs"


@pytest.mark.parametrize("name", COMMANDS)
def test_short_names_are_unique(name):
    short = [option.short_key for option in options_of(COMMANDS[name].options)]
    assert len(short) == len(set(short))


def test_required_values_that_are_missing_are_empty():
    assert build_options(Toy, {}) == Toy("")
    assert build_options(Toy, {"file": "a", "bare": 4}) == Toy("a", (), 4)
    assert next(option for option in options_of(Toy) if option.key == "file").default is MISSING
