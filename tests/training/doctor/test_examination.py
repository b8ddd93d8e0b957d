"""`doctor` examines shipped and broken environments, and never raises."""

import probes
import pytest
from patients import raises

import purejaxppo as pp
from purejaxppo.config.shipped import shipped_configs
from purejaxppo.config.toml import load_toml
from purejaxppo.training.doctor.learning import LATER, UPDATE
from purejaxppo.training.runs import build


def test_a_shipped_environment_passes_with_the_default_network():
    found = pp.doctor(pp.make("Catch-bsuite"), num_steps=32)
    assert {check.name for check in found if check.passed is False} == set()
    assert {check.name for check in found if check.passed} >= {UPDATE, *LATER}
    assert len({check.name for check in found}) == len(found)


def test_after_an_error_of_the_environment_nothing_else_runs():
    found = pp.doctor(raises())
    assert [check.passed for check in found] == [False, *[None] * (len(found) - 1)]


def test_a_network_that_cannot_be_made_is_a_failed_check():
    env = probes.constant_reward()
    found = pp.doctor(env._replace(action_space={}), num_steps=8)
    assert any(check.passed is False for check in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_configs() if "/" not in name])
def test_every_shipped_setting_passes(name):
    run = load_toml(shipped_configs()[name])
    algo = build(run)
    found = pp.doctor(algo.env, algo.network, run.config)
    assert [check for check in found if check.passed is False] == []
