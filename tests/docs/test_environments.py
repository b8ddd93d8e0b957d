"""docs/environments.md has one line for each wrapper, as it is called, and names settings that exist."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.envs import wrappers

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
CALLS = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, re.MULTILINE))


def test_every_wrapper_has_a_line():
    assert set(CALLS) == set(wrappers.__all__)


@pytest.mark.parametrize("name", wrappers.__all__)
def test_the_arguments_of_a_wrapper_are_those_of_its_signature(name):
    parameters = inspect.signature(getattr(wrappers, name)).parameters
    given = CALLS[name].split(", ")
    assert given == list(parameters)[: len(given)]
    missing = [
        p.name
        for p in list(parameters.values())[len(given) :]
        if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    assert missing in ([], ["space"])


def test_the_settings_of_the_network_exist():
    named = set(re.findall(r"`network\.(\w+)`", PAGE))
    assert named <= {field.name for field in dataclasses.fields(NetworkConfig)}
    assert {"symbols", "embedding_size", "critic_hidden_sizes", "critic_activation", "layer_norm"} <= named
