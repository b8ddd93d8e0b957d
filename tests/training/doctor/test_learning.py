"""Every check of an update finds its fault; the slow form of GAE is the formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from patients import changed, noisy_loss, reuses_a_key, walk
from plain_net import plain

import purejaxppo as pp
from purejaxppo.config.schema import Config
from purejaxppo.envs.wrappers.agents import fold_agents
from purejaxppo.training.doctor import learning as checks
from purejaxppo.training.doctor.check import guarded
from purejaxppo.training.doctor.learning import learning_checks, slow_gae, small_algorithm, small_config


def failures(env, network) -> set[str]:
    def make():
        return pp.make_ppo(env, network, small_config(Config(), env))

    with jax.debug_key_reuse(False):
        return {check.name for check in learning_checks(make) if check.passed is False}


def normalized_over_the_batch():
    """A network whose output depends on the other observations of the batch, as with batch statistics."""
    network = plain(walk())

    def apply(params, rnn_state, obs, is_first):
        centered = obs - obs.mean((0, 1), keepdims=True)
        return network.apply(params, rnn_state, centered, is_first)

    return network._replace(apply=apply)


def test_the_ratio_of_a_network_with_batch_statistics_is_not_1():
    assert failures(walk(), normalized_over_the_batch()) == {checks.RATIO, checks.GAE}


@pytest.mark.slow
def test_a_final_observation_that_is_not_the_next_one_fails_gae_alone():
    env = changed(final_obs=lambda state, ts: jnp.zeros_like(ts.obs))
    assert failures(env, plain(env)) == {checks.GAE}


def test_a_key_that_is_used_twice_and_numbers_of_the_host_fail_their_checks():
    env = reuses_a_key()

    def step(key, state, action):
        after, ts = env.step(key, state, action)
        return after, ts._replace(reward=jnp.float32(np.random.rand()))  # noqa: NPY002

    assert failures(env._replace(step=step), plain(env)) == {checks.UPDATE_KEYS, checks.RESUME}


def test_a_network_that_does_not_fit_fails_the_first_check_alone():
    other = plain(walk()._replace(action_space=pp.make("Catch-bsuite").action_space))
    found = learning_checks(lambda: pp.make_ppo(walk(), other, small_config(Config(), walk())))
    assert [check.passed for check in found] == [False, *[None] * len(checks.LATER)]
    assert "fit" in found[0].advice


@pytest.fixture(scope="module")
def algo():
    """An algorithm whose update only counts."""
    env = walk()
    algo = pp.make_ppo(env, plain(env), small_config(Config(), env))
    return algo._replace(update=lambda state, h: (state._replace(num_updates=state.num_updates + 1), ()))


def test_an_update_that_changes_a_type_is_compiled_twice(algo):
    def weak(state, h):
        return state._replace(last_residual=jax.lax.full((), 0.5)), ()

    assert checks._one_compile(checks._two_updates(algo)[1]).passed
    _, updated = checks._two_updates(algo._replace(update=weak))
    check = checks._one_compile(updated)
    assert check.passed is False
    assert "last_residual" in check.advice


def test_a_state_of_another_structure_cannot_be_resumed(algo):
    """Such as that of an environment which names its state after a counter."""
    _, updated = checks._two_updates(algo)
    assert guarded(checks.RESUME, lambda: checks._resume(updated)).passed

    def init(key, h):
        state = algo.init(key, h)
        return state._replace(env_state={"other": state.env_state})

    renamed = updated._replace(algo=algo._replace(init=init))
    check = guarded(checks.RESUME, lambda: checks._resume(renamed))
    assert check.passed is False
    assert "CheckpointError" in check.advice


def test_a_key_that_an_auxiliary_loss_uses_twice_fails_its_check(monkeypatch):
    def traced(algo, h):
        return jax.eval_shape(algo.update, jax.eval_shape(algo.init, jax.random.key(0), h), h)

    monkeypatch.setattr(checks, "_run", traced)  # the check of key reuse needs no results
    monkeypatch.setattr("purejaxppo.assembly._trace_update", lambda algo: None)
    for faulty in (False, True):
        loss = partial(noisy_loss, reuses_key=faulty, wrong_gradient=False)
        algo = pp.make_ppo(walk(), plain(walk()), small_config(Config(), walk()), auxiliary_loss=loss)
        with jax.debug_key_reuse(False):
            assert checks._two_updates(algo)[0].passed is not faulty


def test_the_state_of_an_environment_on_the_host_is_in_no_checkpoint(algo):
    """Its update is a program with an effect, and whether two of them agree says nothing."""

    def update(state, h):
        calls = io_callback(lambda: np.float32(np.random.rand()), jax.ShapeDtypeStruct((), jnp.float32))  # noqa: NPY002
        return state._replace(last_residual=calls), ()

    _, updated = checks._two_updates(algo._replace(update=update))
    assert checks._resume(updated).passed is None


def test_a_small_algorithm_keeps_the_functions_of_the_user_and_the_choices_of_the_config():
    def targets(rewards, values, *rest):
        return rewards - values, rewards

    env = walk()
    config = Config(
        num_envs=64, num_steps=32, num_minibatches=8, targets="n_step", objective="kl", shuffle="permutation"
    )
    named = pp.make_ppo(env, plain(env), config)
    own = pp.make_ppo(env, plain(env), config, target_fn=targets, metrics_fn=lambda state, *_: {})
    small = small_algorithm(named)
    again = pp.make_ppo(env, plain(env), small_config(config, env))
    assert small.config == again.config
    fields = ("objective", "target_fn", "shuffle", "normalized", "optimizer", "auxiliary_loss", "intrinsic", "plan")
    for name in fields:
        assert getattr(small.components, name) == getattr(again.components, name), name
    assert small_algorithm(own).components.target_fn is own.components.target_fn
    assert small_algorithm(own).components.metrics_fn is own.components.metrics_fn
    assert small_algorithm(own).components.plan.truncation_gap == 1
    replaced = named._replace(update=lambda state, h: (state, ()))
    assert small_algorithm(replaced) is replaced


def test_small_settings_are_valid_for_teams_and_sequences():
    team = fold_agents(walk(), 3)
    config = Config(sequence_length=24, burn_in=4, num_steps=48, num_envs=6, total_timesteps=10**6, pool_size=999)
    small = small_config(config, team)
    assert small.num_envs % (2 * team.group_size) == 0
    assert small.num_steps % small.sequence_length == 0
    assert (small.burn_in, small.sequence_length) == (4, 24)
    assert small.num_envs * small.num_steps <= 500


def test_the_slow_form_is_the_recursion():
    """Â_t = δ_t + γλ Â_{t+1} within an episode (10)."""
    rng = np.random.default_rng(0)
    rewards, values, after = rng.normal(size=(3, 20, 4))
    terminated, truncated = rng.random((2, 20, 4)) < 0.15
    found = slow_gae(rewards, values, after, terminated, truncated, 0.9, 0.8)
    deltas = rewards + 0.9 * np.where(terminated, 0, after) - values
    later = np.concatenate([found[1:], np.zeros((1, 4))])
    expected = deltas + 0.9 * 0.8 * np.where(terminated | truncated, 0, later)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
