"""From words to values: spellings, short names, switches, lists, and every problem at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from readable import readable

from purejaxppo.cli.options import Argument, Interval, Settings, options_of
from purejaxppo.cli.parser import parse, read_value


@dataclass(frozen=True)
class Toy:
    """A command with every kind of option."""

    file: Annotated[str, Argument("FILE")]
    out: Path | None = None
    count: Annotated[int, Interval("[1, 10]")] = 1
    rate: float = 0.5
    loud: bool = False
    names: tuple[str, ...] = ()
    changes: Annotated[dict, Settings] = field(default_factory=dict)


@dataclass(frozen=True)
class Plain:
    """A command without settings, whose argument may be left out."""

    name: Annotated[str, Argument("NAME")] = ""
    count: int = 1


OPTIONS = options_of(Toy)


def parsed(*words):
    return parse(words, OPTIONS)


def keys(problems) -> list[tuple[str, str]]:
    return [(problem.key, problem.kind) for problem in problems]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["x"], {}),
        (["x", "--out", "a"], {"out": Path("a")}),
        (["--out=a=b", "x"], {"out": Path("a=b")}),
        (["x", "--count", "3", "--rate", "-1e-3"], {"count": 3, "rate": -1e-3}),
        (["--loud", "x"], {"loud": True}),
        (["x", "--loud", "false"], {"loud": False}),
        (["x", "--no-loud"], {"loud": False}),
        (["x", "--loud=TRUE"], {"loud": True}),
        (["x", "--names", "a", "b", "--count", "2"], {"names": ("a", "b"), "count": 2}),
        (["x", "--count", "2", "--count", "3"], {"count": 3}),
    ],
    ids=readable,
)
def test_options_of_a_command(words, values):
    result = parsed(*words)
    assert (result.values, result.settings, result.problems) == ({"file": "x"} | values, {}, [])


@pytest.mark.parametrize(
    ("words", "tables"),
    [
        (["--config.num-envs=8"], {"config": {"num_envs": 8}}),
        (["--config.num_envs", "8"], {"config": {"num_envs": 8}}),
        (
            ["--num-envs", "8", "--learning-rate", "1e-3"],
            {"config": {"num_envs": 8}, "hyperparams": {"learning_rate": 1e-3}},
        ),
        (["--seed", "3", "--env", "A"], {"seed": 3, "env": "A"}),
        (["--config.scale-rewards"], {"config": {"scale_rewards": True}}),
        (["--config.scale-rewards", "false"], {"config": {"scale_rewards": False}}),
        (["--config.no-scale-rewards"], {"config": {"scale_rewards": False}}),
        (["--no-scale-rewards"], {"config": {"scale_rewards": False}}),
        (["--network.hidden-sizes", "8", "9"], {"network": {"hidden_sizes": [8, 9]}}),
        (["--hidden-sizes", "8,9"], {"network": {"hidden_sizes": [8, 9]}}),
        (
            ["--env-params.gravity", "9.8", "--env-params.names", "a", "2"],
            {"env_params": {"gravity": 9.8, "names": ["a", 2]}},
        ),
        (["--env-params.fast", "true"], {"env_params": {"fast": True}}),
    ],
    ids=readable,
)
@pytest.mark.parametrize("before", [True, False])
def test_settings_are_the_tables_of_a_file(words, tables, before):
    """The position of the positional argument does not matter."""
    result = parsed(*(["x.toml", *words] if before else [*words, "x.toml"]))
    assert (result.values, result.settings, result.problems) == ({"file": "x.toml"}, tables, [])


@pytest.mark.parametrize("table", ["config", "network"])
def test_every_switch_takes_true_and_false_as_a_file_does(table):
    switches = [option for option in OPTIONS if option.key.startswith(f"{table}.") and option.hint is bool]
    assert switches
    for option in switches:
        for word, value in (("true", True), ("false", False)):
            name = option.key.partition(".")[2]
            assert parsed("x", option.flag, word).settings == {table: {name: value}}


def test_values_that_cannot_be_read_are_kept_as_text_for_the_checks():
    result = parsed("x", "--num-envs", "many", "--scale-rewards", "yes", "--hidden-sizes", "64", "x")
    assert result.settings == {
        "config": {"num_envs": "many", "scale_rewards": "yes"},
        "network": {"hidden_sizes": "64 x"},
    }
    assert read_value(float, ["1e-4,3e-4"]) == "1e-4,3e-4"


def test_unknown_settings_of_a_table_are_left_to_the_checks():
    assert parsed("x", "--config.num-env", "8") == ({"file": "x"}, {"config": {"num_env": 8}}, [])


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ([], [("FILE", "missing")]),
        (["x", "y"], [("y", "unknown")]),
        (["x", "--count"], [("--count", "missing")]),
        (["x", "--count", "--loud"], [("--count", "missing")]),
        (["x", "--names"], [("--names", "missing")]),
        (["x", "--count", "11"], [("--count", "range")]),
        (["x", "--count", "1" + "0" * 400], [("--count", "range")]),
        (["x", "--count", "two"], [("--count", "type")]),
        (["x", "--rate", "nan"], [("--rate", "range")]),
        (["x", "--loud", "yes"], [("--loud", "type")]),
        (["x", "--out", "a\0b"], [("--out", "type")]),
        (["x\0"], [("FILE", "type")]),
        (["x", "--config", "8"], [("--config", "unknown")]),
        (["x", "--no-count"], [("--no-count", "unknown")]),
        (["--quiet", "x.toml"], [("--quiet", "unknown")]),
        (["--quiet", "1", "--count", "0"], [("--quiet", "unknown"), ("--count", "range")]),
    ],
    ids=readable,
)
def test_every_problem_is_found(words, problems):
    assert keys(parsed(*words).problems) == problems


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("--sed", "did you mean --seed?"),
        ("--confi.num-envs=8", "did you mean --config.num-envs?"),
        ("--num-env=8", "did you mean --config.num-envs?"),
        ("--lr=8", "did you mean --hyperparams.learning-rate?"),
        ("--config=8", "as in --config.num-envs"),
        ("--quiet", ": no such option"),
        ("--zzz=1", ": no such option"),
    ],
)
def test_an_unknown_option_suggests_the_nearest_or_none(word, advice):
    (problem,) = parsed("x", word).problems
    assert problem.text.endswith(advice)


def test_an_argument_may_be_left_out_if_it_has_a_default():
    assert parse([], options_of(Plain)) == ({}, {}, [])
    assert parse(["--count", "2", "a"], options_of(Plain)).values == {"count": 2, "name": "a"}
    assert keys(parse(["--config.num-envs", "2"], options_of(Plain)).problems) == [("--config.num-envs", "unknown")]


def test_a_name_that_several_tables_have_is_not_short_enough():
    twice = [*OPTIONS, OPTIONS[-1]._replace(key="network.num_steps")]
    assert keys(parse(["x", "--num-steps", "3"], twice).problems) == [("--num-steps", "unknown")]
    assert parse(["x", "--config.num-steps", "3"], twice).problems == []
