"""Spaces survive as text, and a text that is not one of a space is refused."""

import json

import numpy as np
import pytest
from nets import ACTIONS, OBSERVATIONS
from readable import readable

from purejaxppo.envs.space_text import read_space, write_space
from purejaxppo.envs.spaces import Box, Discrete, box

SPACES = {f"observation {name}": space for name, space in OBSERVATIONS.items()}
SPACES |= {f"action {name}": space for name, space in ACTIONS.items()}
SPACES |= {
    "infinite": box([-np.inf, 0.1], [np.inf, np.inf], (2,)),
    "wide": box(-1e300, 1e300, (2,), np.float64),
    "half": box(-1, 1, (2,), np.float16),
    "large integers": Box(np.array([0]), np.array([2**63 - 1])),
    "empty": box(0, 1, (0,)),
    "mixed": box(-1, 1, (3,), codes=[True, False, True]),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_as_text(name):
    text = write_space(SPACES[name])
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert read_space(text) == SPACES[name]
    assert write_space(read_space(text)) == text


def test_an_image_takes_one_line():
    image = box(0, 255, (84, 84, 4), np.uint8, pixels=True)
    assert len(write_space(image)) < 200
    assert isinstance(read_space(write_space(image)), Box)
    assert write_space(Discrete(3)) == '{"discrete": 3}'


BOX = {"low": 0, "high": 1, "shape": [2], "dtype": "float32", "pixels": False, "codes": False}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"discrete": 0},
        {"discrete": "3"},
        {"discrete": 2, "box": BOX},
        {"multi_discrete": 3},
        {"other": 3},
        {"dict": [1]},
        {"tuple": 5},
        {"box": {}},
        {"box": BOX | {"shape": [10**6, 10**6]}},
        {"box": BOX | {"shape": [-1]}},
        {"box": BOX | {"dtype": "object"}},
        {"box": BOX | {"dtype": "nothing"}},
        {"box": BOX | {"low": 2}},
        {"box": BOX | {"low": "x"}},
        {"box": BOX | {"low": [0, 0, 0]}},
        {"box": BOX | {"pixels": True}},
    ],
    ids=readable,
)
def test_another_text_is_refused(data):
    with pytest.raises(ValueError, match="not the text of a space"):
        read_space(json.dumps(data))


def test_text_that_is_no_json_or_nested_too_deeply_is_refused():
    for text in ("", "{", '{"tuple": [' * 100_000):
        with pytest.raises(ValueError, match="not the text of a space"):
            read_space(text)
