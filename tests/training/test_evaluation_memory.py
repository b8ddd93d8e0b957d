"""An evaluation plays as many environments at once as fit the memory, and says what it needs if none fits."""

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from compiles import count_compiles
from plain_net import plain

import purejaxppo as pp
from purejaxppo.config.schema import Config
from purejaxppo.devices.memory import MEMORY_VARIABLE, compiled_memory, tree_bytes
from purejaxppo.envs.wrappers.agents import fold_agents
from purejaxppo.training import evaluation_memory
from purejaxppo.training.errors import OutOfMemoryError
from purejaxppo.training.evaluation import compile_evaluation
from purejaxppo.training.evaluation_memory import (
    check_evaluation_memory,
    evaluate_within_memory,
    evaluation_forecast,
    fitting_at_once,
)
from purejaxppo.training.memory import ENVIRONMENTS

CONFIG = Config(num_envs=16, num_steps=8, num_minibatches=2, total_timesteps=128 * 8, num_devices=1)
ENV = probes.chain(limit=6)
ALGO = pp.make_ppo(ENV, plain(ENV), CONFIG)


@pytest.fixture(scope="module")
def state():
    return pp.init_state(ALGO, 0)


def test_a_forecast_has_the_parameters_and_two_states_of_each_environment(monkeypatch):
    forecast = evaluation_forecast(ALGO, 5)
    params = jax.eval_shape(ALGO.network.init, jax.random.key(0))
    start = jax.vmap(ENV.reset)(jax.random.split(jax.random.key(1), 5))
    assert forecast.total == tree_bytes(params) + 2 * tree_bytes(start)
    least = evaluation_forecast(ALGO, 1).total
    monkeypatch.setenv(MEMORY_VARIABLE, str(least))
    check_evaluation_memory(ALGO)
    monkeypatch.setenv(MEMORY_VARIABLE, str(least - 1))
    with pytest.raises(OutOfMemoryError, match="parameters"):
        check_evaluation_memory(ALGO)
    monkeypatch.setenv(MEMORY_VARIABLE, "off")
    check_evaluation_memory(ALGO)


def test_a_team_is_forecast_as_a_whole(monkeypatch):
    """One column of a team of three cannot be played: a forecast for it has the memory of three."""
    one = probes.chain(limit=6)

    def reset(key):
        env_state, obs = one.reset(key)
        return env_state, jnp.stack([obs] * 3)

    team = fold_agents(one._replace(reset=reset), 3)
    algo = pp.make_ppo(ENV, plain(ENV), CONFIG)._replace(env=team)
    forecasts = [evaluation_forecast(algo, n) for n in (1, 3, 4)]
    assert forecasts[0] == forecasts[1]
    assert forecasts[2].buffers[ENVIRONMENTS] == 2 * forecasts[1].buffers[ENVIRONMENTS]
    for room in ("off", str(forecasts[0].total)):
        monkeypatch.setenv(MEMORY_VARIABLE, room)
        check_evaluation_memory(algo)


def test_as_many_environments_are_played_at_once_as_fit(monkeypatch, state):
    """Of 2048 episodes; the largest half, quarter, ... whose compiled program fits, which is compiled once."""
    held = tree_bytes((state.params, state.obs_moments))
    needed = {n: compiled_memory(compile_evaluation(ALGO, state, 2048, 20, n)) - held for n in (2048, 1024)}
    assert needed[2048] > needed[1024] > evaluation_forecast(ALGO, 1024).total - held
    monkeypatch.setenv(MEMORY_VARIABLE, "off")
    assert fitting_at_once(ALGO, state, 2048, 20) == 2048
    for room, expected in ((needed[2048], 2048), (needed[2048] - 1, 1024), (needed[1024], 1024)):
        monkeypatch.setenv(MEMORY_VARIABLE, str(room))
        assert fitting_at_once(ALGO, state, 2048, 20) == expected
    with count_compiles() as counts:
        result = evaluate_within_memory(ALGO, state, jax.random.key(1), 2048, True, 20)
    assert counts["_play"] == 0
    assert result.returns.shape == (2048,)
    np.testing.assert_array_equal(result.returns, pp.evaluate(ALGO, state, 1, 2048, max_steps=20, at_once=1024).returns)
    monkeypatch.setenv(MEMORY_VARIABLE, "10")
    with pytest.raises(OutOfMemoryError, match="environment states"):
        evaluate_within_memory(ALGO, state, jax.random.key(1), 2048, True, 20)


@pytest.mark.parametrize("error", [RuntimeError("RESOURCE_EXHAUSTED: 8 bytes"), MemoryError()])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_a_device_that_runs_out_of_memory_plays_fewer_at_once(monkeypatch, state, error, most):
    tried = []

    def evaluate(algo, policy, key, num_episodes, greedy, max_steps, at_once):
        tried.append(at_once)
        if at_once > most:
            raise error
        return "played"

    monkeypatch.setenv(MEMORY_VARIABLE, "off")
    monkeypatch.setattr(evaluation_memory, "evaluate", evaluate)
    if most:
        assert evaluate_within_memory(ALGO, state, jax.random.key(1), 8, True, 20) == "played"
    else:
        with pytest.raises(OutOfMemoryError, match="the device is out of memory"):
            evaluate_within_memory(ALGO, state, jax.random.key(1), 8, True, 20)
    assert tried == [n for n in (8, 4, 2, 1) if n > most] + [n for n in (4, 2, 1) if n <= most][:1]


def test_other_errors_pass(monkeypatch, state):
    def evaluate(*_):
        raise RuntimeError("another fault")

    monkeypatch.setattr(evaluation_memory, "evaluate", evaluate)
    monkeypatch.setenv(MEMORY_VARIABLE, "off")
    with pytest.raises(RuntimeError, match="another fault"):
        evaluate_within_memory(ALGO, state, jax.random.key(1), 8, True, 20)
