"""Every check of an environment finds its fault, and the others pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from patients import changed, endless, fixed_noise, moving_key, raises, reuses_a_key, walk

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.spaces import box
from purejaxppo.training.doctor import environment as checks
from purejaxppo.training.doctor.environment import environment_checks


def results(env, num_steps: int = 64):
    with jax.debug_key_reuse(False):
        return {check.name: check for check in environment_checks(env, num_steps, 4)}


def names(found, passed) -> set[str]:
    return {check.name for check in found.values() if check.passed is passed}


@pytest.mark.parametrize("env", [walk, moving_key, probes.masked, lambda: auto_reset(walk())])
def test_a_sound_environment_passes(env):
    found = results(env())
    assert names(found, False) == set()
    assert names(found, None) <= {checks.TRUNCATION}


BOTH = {
    "terminated": lambda state, ts: ts.terminated | ts.truncated,
    "truncated": lambda state, ts: ts.terminated | ts.truncated,
}

FAULTS = {
    "shape": (lambda: walk()._replace(observation_space=box(0, 1, (4,))), checks.SPACES, "(3,)"),
    "bounds": (lambda: walk()._replace(observation_space=box(0, 0.5, (3,))), checks.SPACES, "bounds"),
    "dtype": (lambda: changed(reward=lambda state, ts: jnp.int32(1)), checks.DTYPES, "conform"),
    "key": (reuses_a_key, checks.KEYS, "split"),
    "reward": (
        lambda: changed(reward=lambda state, ts: jnp.where(state["time"] == 3, jnp.float32(np.nan), 1.0)),
        checks.FINITE,
        "a reward is NaN",
    ),
    "observation": (
        lambda: changed(final_obs=lambda state, ts: jnp.where(state["time"] == 3, jnp.float32(np.inf), ts.obs)),
        checks.FINITE,
        "an observation is NaN",
    ),
    "host": (
        lambda: changed(reward=lambda state, ts: jnp.float32(np.random.rand())),  # noqa: NPY002
        checks.DETERMINISTIC,
        "np.random",
    ),
    "reset noise": (partial(fixed_noise, "reset"), checks.NOISE, "reset draws"),
    "step noise": (partial(fixed_noise, "step"), checks.NOISE, "step draws"),
    "state noise": (partial(fixed_noise, "state"), checks.NOISE, "step draws"),
    "flags": (lambda: changed(**BOTH), checks.DISTINGUISHED, "truncated alone"),
    "truncation": (lambda: probes.endless(5)._replace(truncation_gap=6), checks.TRUNCATION, "truncation_gap = 6"),
    "mask": (lambda: probes.dead_end(3), checks.MASKS, "always_some_action"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_check_and_no_other(fault):
    env, name, advice = FAULTS[fault]
    found = results(env())
    assert names(found, False) == {name}
    assert advice in found[name].advice
    if fault != "shape":  # which random play would crash on
        assert names(found, None) <= {checks.TRUNCATION, checks.TERMINATION}


@pytest.mark.parametrize(
    ("env", "advice"), [(raises(), "KeyError: 'the pole'"), ("CartPole-v1", "purejaxppo.make"), (None, "TypeError")]
)
def test_what_cannot_be_traced_fails_the_first_check_alone(env, advice):
    found = results(env)
    assert names(found, False) == {checks.PROTOCOL}
    assert advice in found[checks.PROTOCOL].advice
    assert names(found, None) == set(checks.PLAYED)


def test_what_random_play_does_not_meet_is_not_seen():
    found = results(endless())
    assert names(found, None) == {checks.TERMINATION, checks.TRUNCATION, checks.DISTINGUISHED}
    assert names(found, False) == set()


def test_a_termination_that_looks_like_a_time_limit_is_remarked():
    env = changed(
        terminated=lambda state, ts: state["time"] >= 5,
        truncated=lambda state, ts: jnp.bool_(False),
    )
    found = results(env)
    assert "exactly 6 steps" in found[checks.TERMINATION].advice
    assert found[checks.TERMINATION].passed
