"""Programs of a workload: seeds are mapped as in a loop, and a program repeats updates any number of times."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from purejaxppo.bench import programs
from purejaxppo.bench.programs import (
    Training,
    count_devices,
    make_algorithm,
    many_updates,
    over_seeds,
    prepare_cpu_for,
    seed_keys,
    time_updates,
)
from purejaxppo.bench.timing import TimingBudget
from purejaxppo.config.schema import Config, NetworkConfig, Run


def toy(num_devices=1):
    config = Config(num_envs=4, num_steps=4, num_minibatches=2, total_timesteps=160, num_devices=num_devices)
    return Run(config=config, env_params={"max_steps_in_episode": 7}, network=NetworkConfig(hidden_sizes=(4,)))


def test_the_algorithm_has_the_environment_the_network_and_the_settings_of_the_run():
    algo = make_algorithm(toy())
    assert algo.config == toy().config
    assert algo.env.truncation_gap == 7
    shapes = jax.eval_shape(algo.network.init, jax.random.key(0))
    assert {x.shape for x in jax.tree.leaves(shapes)} == {(4, 4), (4,), (4, 2), (2,), (4, 1), (1,)}


def test_the_cpu_is_prepared_for_the_minibatches_of_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(programs, "prepare_cpu", lambda *given: asked.append(given))
    prepare_cpu_for(toy(), 3)
    assert asked == [(8, 3)]


@pytest.mark.parametrize("num_seeds", [1, 3, 4])
def test_a_function_of_many_seeds_is_a_loop_over_them(num_seeds):
    """Four seeds are distributed among two devices, three run on one."""

    def function(x, y, h):
        return x * y + h, x.sum()

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, num_seeds, 3)).astype(np.float32)
    mapped = over_seeds(function, num_seeds)
    if num_seeds == 1:
        assert mapped is function
        return
    found = quick_jit(mapped)(jnp.asarray(x), jnp.asarray(y), jnp.float32(2.0))
    np.testing.assert_allclose(found[0], np.stack([a * b + 2.0 for a, b in zip(x, y, strict=True)]), rtol=1e-6)
    np.testing.assert_allclose(found[1], [a.sum() for a in x], rtol=1e-5)


@pytest.mark.parametrize(("num_devices", "num_seeds", "count"), [(1, 1, 1), (2, 1, 2), (1, 3, 1), (1, 4, 2)])
def test_one_run_has_the_devices_of_its_settings_and_several_share_all(num_devices, num_seeds, count):
    assert count_devices(toy(num_devices), num_seeds) == count


def test_every_seed_has_a_key():
    assert seed_keys(1, 5) == jax.random.key(5)
    keys = seed_keys(4)
    assert keys.shape == (4,)
    assert len({bytes(np.asarray(jax.random.key_data(key))) for key in keys}) == 4


def test_many_updates_are_one_program_for_any_number():
    """From 0, x -> h x + 1 gives 2^n - 1 after n steps with h = 2."""
    traces = []

    def update(state, h):
        traces.append(state)
        state = h * state + 1
        return state, {"before": (state - 1) // h}

    run = quick_jit(lambda length, state, h: many_updates(update, state, length, h))
    run(jnp.int32(1), jnp.int32(0), jnp.int32(2))
    traced = len(traces)
    for n in range(8):
        state, metrics = run(jnp.int32(n), jnp.int32(0), jnp.int32(2))
        assert state == 2**n - 1
        assert metrics["before"] == (2 ** (n - 1) - 1 if n else 0)
    assert len(traces) == traced


def test_timed_updates_go_on_from_the_state_of_the_call_before():
    """The state of a call is donated, so that it must not be used again."""
    states = []

    def updates(state, length, h):
        states.append((int(state), int(length)))
        return state + length, jnp.float32(0.0)

    time_updates(Training(lambda keys, h: 0, updates, 0.0, 0.0), toy(), 1, TimingBudget(3, 0.0))
    assert len(states) > 3
    assert all(before + n == after for (before, n), (after, _) in itertools.pairwise(states))
