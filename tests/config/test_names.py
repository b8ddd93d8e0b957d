"""Suggestions: the nearest setting, or none."""

import pytest

from purejaxppo.config.names import OTHER_NAMES, place_of, suggestion
from purejaxppo.config.schema import Run, table_names

NAMES = table_names()
EVERY = {name for names in NAMES.values() for name in names} | set(Run.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learningrate", "learning_rate"),
        ("num_env", "num_envs"),
        ("NUM_ENVS", "num_envs"),
        ("lr", "learning_rate"),
        ("update_epochs", "num_epochs"),
        ("quiet", ""),
        ("zzz", ""),
    ],
)
def test_the_nearest_setting_is_suggested_or_none(name, expected):
    assert suggestion(name, EVERY) == expected


def test_only_names_of_the_table_are_suggested():
    assert suggestion("lr", NAMES["config"]) == ""
    assert suggestion("n_envs", NAMES["config"]) == "num_envs"


def test_other_names_map_to_settings_and_are_not_settings():
    assert set(OTHER_NAMES.values()) <= EVERY
    assert not OTHER_NAMES.keys() & EVERY


def test_a_setting_has_one_place():
    assert place_of("gamma", "config", NAMES) == "hyperparams"
    assert place_of("gamma", "hyperparams", NAMES) == ""
    assert place_of("nothing", "config", NAMES) == ""
    assert sum(len(names) for names in NAMES.values()) == len({name for names in NAMES.values() for name in names})
