"""`make_ppo` resolves names to functions, and plans the execution that the functions of the user need."""

import itertools

import pytest
from plain_net import plain
from probes import chain, endless

import purejaxppo as pp
from purejaxppo import Config, assembly, ppo
from purejaxppo.batching import final_observations as final
from purejaxppo.batching.shuffles import SHUFFLES
from purejaxppo.config.errors import ConfigError
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS

CHAIN = chain(limit=5)
SMALL = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 4)


def made(env=CHAIN, changes=None, **hooks):
    return assembly.make_ppo(env, plain(env), Config(**(vars(SMALL) | (changes or {}))), **hooks)


def test_every_name_of_a_setting_is_the_function_of_that_name():
    for objective, targets, shuffle in itertools.product(OBJECTIVES, TARGETS, SHUFFLES):
        components = made(changes={"objective": objective, "targets": targets, "shuffle": shuffle}).components
        assert components.objective is OBJECTIVES[objective]
        assert components.target_fn is TARGETS[targets]
        assert components.shuffle is SHUFFLES[shuffle]


def test_the_loss_of_the_minibatches_has_no_objective_if_the_policy_takes_a_trpo_step():
    assert made(changes={"policy_step": "trpo"}).components.objective is OBJECTIVES["none"]


def test_the_algorithm_is_the_functions_of_the_page_with_its_components():
    algo = made()
    for function, of_page in ((algo.init, ppo.init), (algo.update, ppo.update)):
        assert function.func is of_page
        assert function.args == (algo.components,)
    assert algo.config is algo.components.config


def test_without_settings_the_defaults_apply():
    assert assembly.make_ppo(CHAIN, plain(CHAIN)).config == Config()


def test_invalid_settings_are_all_named():
    with pytest.raises(ConfigError) as caught:
        made(changes={"num_envs": 0, "n_step": 0})
    assert {problem.key for problem in caught.value.problems} >= {"config.num_envs", "config.n_step"}


def test_a_batch_that_cannot_reset_a_column_is_refused_for_a_quarantine():
    batch = auto_reset(CHAIN)
    with pytest.raises(ConfigError) as caught:
        made(batch, {"on_nonfinite": "quarantine"})
    assert [(problem.key, problem.kind) for problem in caught.value.problems] == [("config.on_nonfinite", "conflict")]
    assert made(changes={"on_nonfinite": "quarantine"}).components.env.quarantines


def test_functions_of_the_user_see_the_final_observations_of_all_steps(monkeypatch):
    monkeypatch.setattr(final, "SMALL", 0)
    env = endless(8)._replace(truncation_gap=8)
    seen = []

    def metrics_fn(state, rollout, batch, h):
        seen.append(rollout.final_obs.shape)
        return {}

    assert made(env).components.plan.truncation_gap == 8
    assert made(env, metrics_fn=metrics_fn).components.plan.truncation_gap == 1
    assert set(seen) == {(8, 4, 1)}


def test_every_function_handed_in_replaces_the_named_one():
    objective = lambda ratio, advantage, kl, h: ratio * advantage  # noqa: E731
    components = made(objective=objective).components
    assert components.objective is not OBJECTIVES["clip"]
    assert components.target_fn is TARGETS["gae"]
    assert pp.make_ppo is assembly.make_ppo
