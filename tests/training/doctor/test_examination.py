"""`doctor` examines shipped and broken environments, and never raises."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import probes
import pytest
from patients import noisy_loss, raises, walk
from plain_net import plain

import purejaxppo as pp
from purejaxppo import assembly
from purejaxppo.config.shipped import shipped_configs
from purejaxppo.config.toml import load_toml
from purejaxppo.optimizer import vector_optimizer
from purejaxppo.training.doctor import examination
from purejaxppo.training.doctor.check import passed
from purejaxppo.training.doctor.learning import GRADIENT, LATER, UPDATE, UPDATE_KEYS, small_config
from purejaxppo.training.runs import build


@pytest.mark.slow
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


def examined(monkeypatch, *args, **functions):
    """Return the algorithm that `doctor` checks."""
    found = []
    monkeypatch.setattr(examination, "environment_checks", lambda *_: [passed("env")])
    monkeypatch.setattr(examination, "learning_checks", lambda make: [found.append(make())])
    pp.doctor(*args, **functions)
    return found[0]


def test_the_functions_of_the_user_reach_the_updates(monkeypatch):
    def loss(params, batch, h):
        return jnp.square(params["critic_w0"]).mean()

    monkeypatch.setattr(assembly, "_trace_update", lambda algo: None)
    algo = examined(monkeypatch, walk(), plain(walk()), auxiliary_loss=loss, optimizer=lambda h: optax.sgd(1e-3))
    assert algo.components.auxiliary_loss({"critic_w0": jnp.full(2, 3.0)}, None, None) == 9.0
    assert algo.components.optimizer is not vector_optimizer()
    large = pp.make_ppo(walk(), plain(walk()), pp.Config(num_envs=512), auxiliary_loss=loss)
    small = examined(monkeypatch, large)
    assert small.components.auxiliary_loss is large.components.auxiliary_loss
    assert small.config == small_config(large.config, walk())


@pytest.mark.slow
@pytest.mark.parametrize(("faulty", "expected"), [(False, set()), (True, {UPDATE_KEYS, GRADIENT})])
def test_a_key_that_an_auxiliary_loss_uses_twice_and_its_wrong_gradient_are_found(faulty, expected):
    loss = partial(noisy_loss, reuses_key=faulty, wrong_gradient=faulty)
    with jax.debug_key_reuse(False):
        algo = pp.make_ppo(walk(), plain(walk()), pp.Config(num_envs=512), auxiliary_loss=loss)
    assert {check.name for check in pp.doctor(algo) if check.passed is False} == expected


def test_nothing_is_taken_beside_an_algorithm():
    algo = pp.make_ppo(walk(), plain(walk()))
    with pytest.raises(TypeError, match="leave out network, optimizer"):
        pp.doctor(algo, plain(walk()), optimizer=lambda h: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped_configs() if "/" not in name])
def test_every_shipped_setting_passes(name):
    run = load_toml(shipped_configs()[name])
    algo = build(run)
    found = pp.doctor(algo.env, algo.network, run.config)
    assert [check for check in found if check.passed is False] == []
