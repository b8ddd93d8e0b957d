"""The sweep files of configs/sweeps are valid, whatever they train on."""

import pytest

from purejaxppo.cli.sweep_command import is_sweep_file, read_files
from purejaxppo.config.shipped import shipped_sweeps
from purejaxppo.config.toml import read_tables
from purejaxppo.sweeps.session import check_sweep
from purejaxppo.sweeps.spec import parse_sweep


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_file_is_valid_and_begins_with_a_description(name):
    given, base, source = read_files(name)
    sweep, problems = parse_sweep(given, base)
    groups = check_sweep(sweep, problems, source)
    assert is_sweep_file(read_tables(source))
    assert sum(len(group.settings) for group in groups) == len(sweep.settings) > 1
    assert shipped_sweeps()[name].read_text().startswith("# ")


def test_every_objective_is_trained_on_three_environments():
    sweep, _ = parse_sweep(*read_files("sweeps/objectives")[:2])
    assert len(sweep.settings) == 15
    assert sweep.labels[0] == "clip, CartPole-v1"
