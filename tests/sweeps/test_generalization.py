"""Policies are evaluated at other values of an environment parameter, each with its own seed."""

from types import SimpleNamespace

import numpy as np
import pytest
from small_sweeps import BASE, GIVEN

import purejaxppo as pp
from purejaxppo.config.schema import Run
from purejaxppo.sweeps import generalization
from purejaxppo.sweeps.axes import Axis
from purejaxppo.sweeps.generalization import check_parameter, with_parameter
from purejaxppo.sweeps.session import check_sweep
from purejaxppo.sweeps.spec import parse_sweep


def test_a_parameter_that_the_environment_lacks_is_found_before_anything_runs():
    given = GIVEN | {"generalization": {"env_params": {"max_step": [3, 5]}}}
    sweep, problems = parse_sweep(given, BASE)
    with pytest.raises(pp.ConfigError) as caught:
        check_sweep(sweep, problems)
    assert [problem.key for problem in caught.value.problems] == ["generalization.env_params.max_step"]


def test_another_value_changes_one_parameter_and_not_the_given_settings():
    run = Run(env_params={"gravity": 9.8, "length": 0.5})
    assert with_parameter(run, "env_params.gravity", 1.6).env_params == {"gravity": 1.6, "length": 0.5}
    assert run.env_params == {"gravity": 9.8, "length": 0.5}


def test_only_the_first_value_that_is_refused_is_a_problem():
    run = Run(env="CartPole-v1")
    assert check_parameter(Axis("env_params.max_steps_in_episode", (3, 5)), run) == []
    problems = check_parameter(Axis("env_params.max_steps_in_episode", (3, "many", "more")), run)
    assert [problem.key for problem in problems] == ["generalization.env_params.max_steps_in_episode"]
    assert "many" in problems[0].text


def test_calls_have_the_width_of_the_engine_and_every_policy_its_seed():
    """The return of episode e of policy p with seed s is p + s + e, so that the mean over two is p + s + 1/2."""
    widths = []

    def play(policies, seeds, env_params):
        widths.append(len(seeds))
        return np.asarray(policies)[:, None] + np.asarray(seeds)[:, None] + np.arange(2.0)

    policies = [np.float32(10 * i) for i in range(5)]
    scores = generalization._scores(SimpleNamespace(width=3, play=play), policies, [7, 1, 4, 2, 9])
    np.testing.assert_array_equal(scores, [7.5, 11.5, 24.5, 32.5, 49.5])
    assert widths == [3, 3]
