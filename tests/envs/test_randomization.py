"""Every episode draws its parameters from intervals, and keeps them to its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.randomization import Interval, draw, randomized, read_interval
from purejaxppo.envs.registry import make
from purejaxppo.envs.spaces import Discrete, box


def values(interval, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: draw(key, {"x": interval})["x"])(keys))


@pytest.mark.parametrize(
    ("interval", "quantile"),
    [
        (Interval(5.0, 15.0), lambda x: (x - 5.0) / 10.0),
        (Interval(0.1, 10.0, "log"), lambda x: (np.log10(x) + 1.0) / 2.0),
    ],
)
def test_numbers_are_uniform_on_their_scale(interval, quantile):
    x = values(interval)
    assert x.dtype == np.float32
    assert ((x >= np.float32(interval.low)) & (x <= np.float32(interval.high))).all()
    assert stats.kstest(quantile(x.astype(np.float64)), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_whole_numbers_include_both_ends(scale):
    x = values(Interval(2, 5, scale))
    assert x.dtype == np.int32
    found = np.bincount(x, minlength=6)[2:]
    weights = np.ones(4) if scale == "linear" else np.log([3 / 2, 4 / 3, 5 / 4, 6 / 5])
    assert stats.chisquare(found, len(x) * weights / weights.sum()).pvalue > 1e-3


def test_parameters_are_independent_of_each_other_and_of_the_reset():
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = jax.vmap(lambda key: draw(key, {"a": Interval(0.0, 1.0), "b": Interval(0.0, 1.0)}))(keys)
    assert abs(np.corrcoef(drawn["a"], drawn["b"])[0, 1]) < 0.1
    env = randomized(rewarding, {"level": Interval(0.0, 1.0)})
    states, obs = jax.vmap(env.reset)(jax.random.clone(keys))
    assert abs(np.corrcoef(states.drawn["level"], obs[:, 0])[0, 1]) < 0.1


def rewarding(params):
    """An environment whose reward is its level; it begins at a random place and has no end."""

    def reset(key):
        place = jax.random.uniform(key, (1,))
        return place, place

    def step(key, state, action):
        return state, TimeStep(state, jnp.float32(1) * params["level"], jnp.bool_(False), jnp.bool_(False), state)

    return Env(reset, step, box(0, 1, (1,)), Discrete(2), name="Rewarding")


def test_an_episode_keeps_its_parameters():
    env = randomized(rewarding, {"level": Interval(2.0, 3.0)})
    check_env(env)
    assert env.name == "Rewarding"
    rewards = []
    for seed in (0, 1):
        state, _ = env.reset(jax.random.key(seed))
        for _ in range(3):
            state, timestep = env.step(jax.random.key(9), state, jnp.int32(0))
            rewards.append(float(timestep.reward))
    assert len(set(rewards[:3])) == 1
    assert len(set(rewards[3:])) == 1
    assert 2 < rewards[0] != rewards[3] < 3


def test_an_environment_of_gymnax_has_the_physics_that_it_drew():
    env = make("CartPole-v1", gravity={"low": 5, "high": 15}, max_steps_in_episode={"low": 3, "high": 4})
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, _ = reset(jax.random.key(0))
    assert state.drawn["gravity"].dtype == np.float32
    fixed = make("CartPole-v1", gravity=float(state.drawn["gravity"]))
    expected = fixed.step(jax.random.key(9), state.state, jnp.int32(1))[1]
    np.testing.assert_allclose(step(jax.random.key(9), state, jnp.int32(1))[1].obs, expected.obs, rtol=1e-6)
    lengths = []
    for seed in range(1, 9):
        state, _ = reset(jax.random.key(seed))
        lengths.append(int(state.drawn["max_steps_in_episode"]))
        for t in range(1, lengths[-1] + 1):
            state, timestep = step(jax.random.key(t), state, jnp.int32(t % 2))
            assert bool(timestep.truncated) == (t == lengths[-1])
    assert set(lengths) == {3, 4}
    assert env.truncation_gap <= 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gravity": {"low": 1.0, "hihg": 2.0}}, "gravity has no key 'hihg'; nearest: high"),
        ({"gravity": {"low": 1.0}}, "gravity needs two numbers, low below high"),
        ({"gravity": {"low": 2.0, "high": 1.0}}, "gravity needs two numbers, low below high"),
        ({"gravity": {"low": 1.0, "high": float("inf")}}, "gravity needs two numbers, low below high"),
        ({"gravity": {"low": -1.0, "high": 2.0, "scale": "log"}}, "gravity: scale must be"),
        ({"gravitty": {"low": 1.0, "high": 2.0}}, "has no parameter 'gravitty' .nearest: gravity"),
        ({"max_steps_in_episode": {"low": 0, "high": 2}}, r"max_steps_in_episode must be in \[1"),
        ({"max_steps_in_episode": {"low": 1.5, "high": 2.5}}, "must be a whole number"),
        ({"gravity": {"low": 1.0, "high": 2.0}, "traced": ["gravity"]}, "cannot be in traced"),
    ],
)
def test_what_is_no_interval_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make("CartPole-v1", **given)


def test_a_parameter_that_decides_a_space_cannot_be_drawn():
    def sized(params):
        return rewarding({"level": 1.0})._replace(observation_space=box(0, params["size"], (1,)))

    with pytest.raises(ValueError, match="must not depend on its parameters"):
        randomized(sized, {"size": Interval(1, 3)})
    assert read_interval("x", {"low": 1, "high": 3}) == Interval(1, 3, "linear")
