"""The workloads are those of the peer that the benchmark compares with."""

import pytest

from purejaxppo.bench.workloads import WORKLOADS
from purejaxppo.config.checks import check


@pytest.mark.parametrize("name", WORKLOADS)
def test_settings_are_valid_and_equal_those_of_purejaxrl(name):
    run = check(WORKLOADS[name].run)
    h = run.hyperparams
    assert (h.learning_rate, h.lr_anneal, h.gamma, h.gae_lambda) == (2.5e-4, 1.0, 0.99, 0.95)
    assert (h.clip_eps, h.vf_clip_eps, h.ent_coef, h.vf_coef) == (0.2, 0.2, 0.01, 0.5)
    assert (h.max_grad_norm, h.adam_eps) == (0.5, 1e-5)
    assert (run.config.num_epochs, run.config.normalize_advantages) == (4, True)
    assert (run.network.hidden_sizes, run.network.activation) == ((64, 64), "tanh")
    assert run.config.total_timesteps % run.config.timesteps_per_update == 0  # annealing ends with the last update


def test_the_number_of_seeds_depends_on_the_platform():
    assert WORKLOADS["W3"].seeds_on("cpu") == (16,)
    assert WORKLOADS["W3"].seeds_on("gpu") == (256, 2048)
    assert WORKLOADS["W1"].seeds_on("gpu") == (1,)
