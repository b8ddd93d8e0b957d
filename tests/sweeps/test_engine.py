"""Runs side by side have the results of runs alone, whatever lies beside them and however they are divided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descent import descent
from plain_net import plain
from probes import reward_is_observation

import purejaxppo as pp
from purejaxppo import Hyperparams
from purejaxppo.sweeps.engine import Engine, _Play, stack_hyperparams

ALGORITHM = descent()
SEEDS = (4, 0, 9, 4)
RATES = (1e-3, 1e-2, 3e-2, 2e-2)
ENGINE = Engine(ALGORITHM, lanes=4, num_devices=1, segment=5)

pytestmark = pytest.mark.usefixtures("keys_move")


def settings(rates=RATES):
    return stack_hyperparams([Hyperparams(learning_rate=rate) for rate in rates])


def advanced(engine, lengths, seeds=SEEDS, rates=RATES):
    """Return the points and losses [R, U] after some calls."""
    states, losses = engine.start(seeds, settings(rates)), []
    for length in lengths:
        states, metrics = engine.advance(states, settings(rates), length)
        losses.append(metrics.total_loss)
    return np.asarray(states.params), np.concatenate(losses, 1)


def test_every_run_is_the_one_of_its_seed_and_its_hyperparameters():
    points, losses = advanced(ENGINE, [3])
    assert losses.shape == (4, 3)
    for run, (seed, rate) in enumerate(zip(SEEDS, RATES, strict=True)):
        h = Hyperparams(learning_rate=jnp.float32(rate))
        state = ALGORITHM.init(jax.random.key(seed), h)
        for update in range(3):
            state, metrics = ALGORITHM.update(state, h)
            np.testing.assert_allclose(losses[run, update], metrics.total_loss, rtol=1e-5)
        np.testing.assert_allclose(points[run], state.params, rtol=1e-5)


def test_the_runs_beside_a_run_and_its_place_change_no_bit():
    points, losses = advanced(ENGINE, [3])
    back = advanced(ENGINE, [3], SEEDS[::-1], RATES[::-1])
    np.testing.assert_array_equal(back[0][::-1], points)
    np.testing.assert_array_equal(back[1][::-1], losses)
    beside = advanced(ENGINE, [3], (*SEEDS[:3], 77), (*RATES[:3], 1e25))
    np.testing.assert_array_equal(beside[1][:3], losses[:3])


def test_several_calls_are_one():
    for a, b in zip(advanced(ENGINE, [2, 3]), advanced(ENGINE, [5]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_lanes_on_two_devices_are_lanes_on_one():
    divided = Engine(ALGORITHM, lanes=2, num_devices=2, segment=5)
    for a, b in zip(advanced(divided, [3]), advanced(ENGINE, [3]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_width_of_a_call():
    assert Engine(ALGORITHM, 3, 2, 1).width == 6
    assert Engine(ALGORITHM, 3, 2, 1, runs=12).width == 12


def test_the_shapes_are_those_of_the_start():
    states, h = ENGINE.shapes()
    for shapes, arrays in ((states, ENGINE.start(SEEDS, settings())), (h, settings())):
        found = jax.tree.map(lambda x: (x.shape, x.dtype), arrays)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == found


def test_hyperparameters_are_stacked_in_order_as_float32():
    h = settings()
    assert {(x.shape, x.dtype) for x in h} == {((4,), np.dtype("float32"))}
    np.testing.assert_array_equal(h.learning_rate, np.array(RATES, np.float32))
    np.testing.assert_array_equal(h.gamma, np.full(4, Hyperparams().gamma, np.float32))


def test_the_episodes_of_a_run_follow_from_its_seed():
    """The return of an episode is its first observation, -1 or 1, so that seeds show which environments they met."""
    env = reward_is_observation()
    config = pp.Config(num_envs=2, num_steps=2, num_minibatches=1, total_timesteps=4)
    engine = Engine(pp.make_ppo(env, plain(env), config), 4, 1, 1, episodes=16)
    returns = engine.play(engine.start(range(4), settings()), SEEDS)
    assert returns.shape == (4, 16)
    assert set(returns.flat) == {-1.0, 1.0}
    np.testing.assert_array_equal(returns[0], returns[3])
    assert len({tuple(row) for row in returns}) == 3


def test_evaluations_of_one_algorithm_share_a_program():
    other = descent()
    same = _Play(ALGORITHM, 8, True), _Play(ALGORITHM._replace(update=other.update), 8, True)
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    for different in (_Play(other, 8, True), _Play(ALGORITHM, 9, True), _Play(ALGORITHM, 8, False)):
        assert different != same[0]
