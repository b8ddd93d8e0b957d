"""Random play counts the steps of episodes, and marks every fault in the step where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patients import changed, walk
from probes import dead_end, endless

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.spaces import box
from purejaxppo.training.doctor.play import TOLERANCE, place, play_program

STEPS, ENVS = 10, 3


def play(env):
    with jax.debug_key_reuse(False):
        return jax.device_get(play_program(env, STEPS, ENVS)(jax.random.key(0)))


@pytest.mark.parametrize("wrap", [lambda env: env, auto_reset])
def test_episodes_start_again_after_their_end(wrap):
    """With a limit of four steps the ages are 1, 2, 3, 4, 1, 2, ..."""
    seen = play(wrap(endless(4)))
    ages = np.broadcast_to(1 + np.arange(STEPS)[:, None] % 4, (STEPS, ENVS))
    np.testing.assert_array_equal(seen.age, ages)
    np.testing.assert_array_equal(seen.truncated, ages == 4)
    assert not (seen.terminated | seen.bad_obs | seen.bad_reward | seen.stuck).any()


def test_a_fault_is_marked_in_its_step_alone():
    fault = {
        "reward": lambda state, ts: jnp.where(state["time"] == 2, jnp.float32(np.nan), ts.reward),
        "final_obs": lambda state, ts: jnp.where(state["time"] == 1, jnp.float32(np.inf), ts.obs),
    }
    seen = play(changed(**fault))
    np.testing.assert_array_equal(seen.bad_reward, seen.age == 3)
    np.testing.assert_array_equal(seen.bad_obs, seen.age == 2)
    assert seen.bad_reward.any()


def test_a_step_from_a_state_without_an_action_is_stuck():
    seen = play(dead_end(3))
    np.testing.assert_array_equal(seen.stuck, seen.age == 4)


@pytest.mark.parametrize(("low", "high"), [(0, 0.5), (0.25, 1), (-2, 1)])
def test_the_excess_over_the_bounds_by_hand(low, high):
    """The observation is one-hot: its smallest entry is 0 and its largest 1."""
    seen = play(walk()._replace(observation_space=box(low, high, (3,))))
    excess = max(low - TOLERANCE * (1 + abs(low)), 1 - high - TOLERANCE * (1 + abs(high)))
    np.testing.assert_allclose(seen.outside, np.full((1, STEPS, ENVS), excess), rtol=1e-4)


def test_equal_keys_give_equal_prints_and_others_do_not():
    program = play_program(walk(), STEPS, ENVS)
    with jax.debug_key_reuse(False):
        first, again, other = (jax.device_get(program(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.print, again.print)
    assert not np.array_equal(first.print, other.print)
    assert first.first.shape == (ENVS,)


def test_a_place_is_the_first_flag_in_time():
    flags = np.zeros((4, 3), bool)
    flags[2, 1] = flags[3, 0] = flags[3, 2] = True
    assert place(flags) == "first in step 2 of environment 1, 3 of 12 in all"
