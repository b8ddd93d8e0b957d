"""Speed and drift of a toy run."""

from functools import cache

import pytest

from purejaxppo.bench import scaling
from purejaxppo.bench.programs import compile_training
from purejaxppo.bench.timing import TimingBudget
from purejaxppo.config.schema import Config, NetworkConfig, Run

TOY = Run(
    config=Config(num_envs=4, num_steps=4, num_epochs=1, num_minibatches=1, total_timesteps=16_000),
    network=NetworkConfig(hidden_sizes=(4,)),
)


@pytest.mark.slow
def test_speed_and_drift_of_a_toy(monkeypatch):
    program = cache(lambda: compile_training(TOY, 1))  # the same run for both, so one program
    monkeypatch.setattr(scaling, "compile_training", lambda run, num_seeds: program())
    point = scaling.speed(TOY, 4, TimingBudget(2, 0.0))
    assert point["num_envs"] == 4
    assert 0 < point["steps_per_s"]["min"] <= point["steps_per_s"]["median"] <= point["steps_per_s"]["max"]
    seconds = scaling.drift(TOY, 10)["seconds"]
    assert len(seconds) == 10
    assert min(seconds) > 0


@pytest.mark.parametrize(("platform", "last"), [("cpu", 14), ("gpu", 17)])
def test_sizes_are_powers_of_two_up_to_what_the_platform_holds(platform, last):
    assert scaling.scaling_sizes(platform) == [2**i for i in range(6, last + 1)]
