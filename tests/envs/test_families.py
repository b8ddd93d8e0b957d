"""Families of environments: parameters are data, for each reset mode and for separate columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from levels import LENGTH, make_level
from probes import quick_jit

import purejaxppo as pp
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.families import as_params, at_params, first_params, lift, parametrized
from purejaxppo.envs.protocol import check_is_env
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.episodes import time_limit

LEVELS = parametrized(make_level, {"level": 1})
SEPARATE = parametrized(make_level, {"level": 1.0}, per_column=True)


def level(x):
    return {"level": jnp.asarray(x, jnp.float32)}


def steps(env, params, num_steps=5, resets="every_step", before=None, pool_size=3):
    """Return the levels at the reset and the rewards that 2 columns observe, [T, 2] each.

    Args:
        env: the environment.
        params: its parameters from the first step on.
        num_steps: T.
        resets: the mode.
        before: its parameters at the start.
        pool_size: states in a pool.
    """
    vec = auto_reset(env, resets, pool_size=pool_size)

    @quick_jit
    def play(before, params, key):
        state, _ = at_params(vec, before).reset(key, 2)
        now = at_params(vec, params)
        noise = now.noise(jax.random.key(1), num_steps, 2)
        return jax.lax.scan(lambda state, x: now.step(x, state, jnp.zeros(2, jnp.int32)), state, noise)[1]

    ts = play(params if before is None else before, params, jax.random.key(0))
    return np.asarray(ts.obs[..., 0]), np.asarray(ts.reward)


def test_the_environment_is_that_of_the_default_parameters_as_strong_arrays():
    env = parametrized(make_level, {"level": 2.5})
    check_env(env)
    assert env.params["level"].dtype == jnp.float32
    assert not env.params["level"].weak_type
    assert env.reset(jax.random.key(0))[1][0] == 2.5


@pytest.mark.parametrize("resets", ["fresh", "every_step", "pool"])
def test_a_new_level_holds_from_the_next_step_and_after_every_reset(resets):
    env = parametrized(make_level, {"level": 1.0})
    seen, rewards = steps(env, level(7), resets=resets, before=level(2))
    np.testing.assert_array_equal(rewards, 7)
    np.testing.assert_array_equal(seen[: LENGTH - 1], 2)  # the running episode goes on
    np.testing.assert_array_equal(seen[LENGTH - 1 :], 7)


def test_a_pool_in_the_state_holds_states_of_old_levels_until_each_is_replaced():
    """One of 24 states is replaced in every step: old ones begin episodes for 24 steps and no longer."""
    env = parametrized(make_level, {"level": 1.0})
    seen, rewards = steps(env, level(7), 36, "state_pool", before=level(2), pool_size=24)
    np.testing.assert_array_equal(rewards, 7)
    assert set(seen[LENGTH:24].flat) == {2, 7}
    np.testing.assert_array_equal(seen[24 + LENGTH :], 7)


def test_columns_have_separate_parameters():
    for resets in ("fresh", "every_step"):
        seen, rewards = steps(SEPARATE, level([3, 4]), resets=resets)
        np.testing.assert_array_equal(seen, [[3, 4]] * 5)
        np.testing.assert_array_equal(rewards, [[3, 4]] * 5)
    np.testing.assert_array_equal(first_params(SEPARATE, 3)["level"], [1, 1, 1])
    np.testing.assert_array_equal(first_params(auto_reset(SEPARATE), 3)["level"], [1, 1, 1])
    np.testing.assert_array_equal(steps(time_limit(SEPARATE, 1), level([3, 4]))[0], [[3, 4]] * 5)


@pytest.mark.parametrize("resets", ["pool", "state_pool"])
def test_columns_with_separate_parameters_share_no_pool(resets):
    with pytest.raises(ValueError, match=f"resets = '{resets}' shares first states between columns.*Level"):
        auto_reset(SEPARATE, resets)


def test_an_environment_without_a_family_is_returned_itself():
    env = make_level(level(1))
    assert at_params(env, ()) is env
    assert auto_reset(env).family is None
    assert first_params(auto_reset(env), 4) == ()


def test_spaces_must_not_depend_on_the_parameters():
    def sized(n):
        return make_level(level(1))._replace(action_space=Discrete(int(n)))

    def bounded(high):
        return make_level(level(1))._replace(observation_space=box(0, high, (2,)))

    for make in (sized, bounded):
        with pytest.raises(ValueError, match="shapes and spaces of the environment Level must not depend on its param"):
            parametrized(make, 3)

    def sly(x):
        size = 2 if isinstance(x, jax.core.Tracer) else 3
        return make_level(level(1))._replace(action_space=Discrete(size))

    with pytest.raises(ValueError, match="the spaces of the environment Level must not depend on its parameters"):
        parametrized(sly, 3)


def test_a_time_limit_that_is_a_parameter_promises_nothing_about_truncations():
    """Otherwise the rollout would have too little room for final observations after the limit was lowered."""

    def make(params):
        env = make_level(level(1))._replace(truncation_gap=40)
        return time_limit(env, params["limit"] if isinstance(params["limit"], jax.core.Tracer) else 30)

    env = parametrized(make, {"limit": 30})
    assert env.truncation_gap == 1
    assert auto_reset(env).truncation_gap == 1
    assert time_limit(parametrized(make_level, {"level": 1.0}), 9).truncation_gap == 1


def test_a_family_needs_numbers_and_environments_without_parameters():
    with pytest.raises(ValueError, match="at least one number"):
        parametrized(lambda params: make_level(level(1)), {})
    with pytest.raises(ValueError, match="the environment Level has them already"):
        parametrized(lambda params: LEVELS, 1.0)


def test_parameters_must_have_the_structure_shapes_and_dtypes_of_the_old_ones():
    like = {"level": jnp.zeros(2), "goal": jnp.int32(0), "flag": jnp.bool_(False)}
    good = as_params({"level": np.ones(2), "goal": 3, "flag": True}, like)
    assert [x.dtype for x in jax.tree.leaves(good)] == ["bool", "int32", "float32"]
    assert not any(x.weak_type for x in jax.tree.leaves(good))
    assert as_params(1, jnp.float32(0)).dtype == jnp.float32
    for change, text in (
        ({"goal": 1.5}, r"env_params\['goal'\] must be int32 \(\), not float32 \(\)"),
        ({"level": jnp.ones(3)}, r"env_params\['level'\] must be float32 \(2,\), not float32 \(3,\)"),
        ({"flag": 1}, r"env_params\['flag'\] must be bool \(\), not int32 \(\)"),
        ({"more": 1}, "env_params must have the structure"),
    ):
        with pytest.raises(ValueError, match=text):
            as_params({"level": jnp.ones(2), "goal": 3, "flag": True, **change}, like)


def test_an_environment_with_its_own_batch_takes_parameters_of_all_columns():
    """Column i has the level i: a VecEnv needs no `per_column`, which is refused."""

    def make(params):
        vec = auto_reset(make_level({"level": 0.0}))

        def step(noise, state, action):
            state, ts = vec.step(noise, state, action)
            return state, ts._replace(reward=params)

        return vec._replace(step=step)

    vec = parametrized(make, np.arange(4, dtype=np.float32))
    levels = vec.family(jnp.arange(4, dtype=jnp.float32) + 1.0)
    state, _ = levels.reset(jax.random.key(0), 4)
    noise = jax.tree.map(lambda x: x[0], levels.noise(jax.random.key(1), 1, 4))
    np.testing.assert_array_equal(levels.step(noise, state, jnp.zeros(4, jnp.int32))[1].reward, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="per_column needs an Env, but the environment Level is a VecEnv"):
        parametrized(make, np.arange(4, dtype=np.float32), per_column=True)


def test_a_wrapper_that_is_not_lifted_is_refused_because_its_effect_would_be_lost():
    """The program makes the environment from the family, which does not know the replacement."""

    def times_hundred(env):
        def step(key, state, action):
            state, ts = env.step(key, state, action)
            return state, ts._replace(reward=100.0 * ts.reward)

        return env._replace(step=step)

    levels = parametrized(make_level, {"level": 1.0})
    for use in (check_is_env, auto_reset, lambda env: time_limit(env, 9), lambda env: pp.make_ppo(env, pp.mlp(env))):
        with pytest.raises(ValueError, match="reset or step of the environment Level was replaced"):
            use(times_hundred(levels))
    env = lift(times_hundred)(levels).family({"level": jnp.float32(2.0)})
    _, ts = env.step(jax.random.key(0), env.reset(jax.random.key(1))[0], jnp.int32(0))
    assert ts.reward == 200.0
