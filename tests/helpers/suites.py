"""Helpers for the tests of suites, such as playing an environment to measure how its episodes end."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from probes import quick_jit

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.errors import MissingSuite
from purejaxppo.envs.masks import action_mask, sample_allowed
from purejaxppo.envs.packages import import_suite, suite_code
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.registry import make, renderer
from purejaxppo.envs.rendering import states_of


def needs(suite: str) -> Any:
    """Return the package of a suite; skip the test module if it is not installed."""
    try:
        return import_suite(suite)
    except MissingSuite as error:
        pytest.skip(str(error), allow_module_level=True)


def run_suite(function: Callable, *args: Any) -> Any:
    """Compile and run a function made of a suite's own code; NumPy arrays."""
    with suite_code():
        return jax.tree.map(np.asarray, quick_jit(function)(*args))


def first_keys(num_envs: int, seed: int = 0) -> jax.Array:
    """Return the raw keys that `play` resets its environments with."""
    return jax.random.key_data(jax.random.split(jax.random.split(jax.random.key(seed), 3)[0], num_envs))


def draw(name: str, folder: Path) -> Path:
    """Draw the first states of two episodes of an environment; the file."""
    env, drawn = make(name), renderer(name)
    states = jax.jit(jax.vmap(lambda key: env.reset(key)[0]))(jax.random.split(jax.random.key(0)))
    path = folder / f"episode{drawn.suffix}"
    drawn.save(states_of(states, drawn.state_type), path)
    return path


def colors(path: Path) -> int:
    """Return the number of colors of the first image of a GIF."""
    with Image.open(path) as image:
        return len(image.convert("RGB").getcolors(1 << 20))


class Played(NamedTuple):
    """T steps of N environments, as NumPy arrays."""

    ts: TimeStep  # [T, N, ...]
    seen: Any  # observation that was acted on [T, N, ...]
    action: Any  # [T, N, ...]


def play(
    env: Env,
    num_steps: int,
    num_envs: int = 4,
    seed: int = 0,
    policy: Callable | None = None,
    jit: Callable = quick_jit,
) -> Played:
    """Play through `auto_reset`, at random among the allowed actions or by policy(t, obs, key).

    Two environments that differ in their clock only play alike until one of them ends.
    """
    vec = auto_reset(env, "every_step")
    draw = policy or (lambda t, obs, key: sample_allowed(env.action_space, action_mask(obs), key))

    def step(carry: tuple, xs: tuple) -> tuple:
        (env_state, obs), (t, noise, keys) = carry, xs
        action = jax.vmap(partial(draw, t))(obs, keys)
        env_state, ts = vec.step(noise, env_state, action)
        return (env_state, ts.obs), Played(ts, obs, action)

    def run(key: jax.Array) -> Played:
        key_reset, key_noise, key_action = jax.random.split(key, 3)
        keys = jax.random.split(key_action, (num_steps, num_envs))
        xs = (jnp.arange(num_steps), vec.noise(key_noise, num_steps, num_envs), keys)
        return jax.lax.scan(step, vec.reset(key_reset, num_envs), xs)[1]

    return jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(seed)))


def play_batch(vec: VecEnv, num_steps: int, num_envs: int) -> TimeStep:
    """Play a batch that resets itself, at random among the allowed actions; NumPy arrays [T, N, ...]."""
    draw = jax.vmap(lambda obs, key: sample_allowed(vec.action_space, action_mask(obs), key))

    def step(carry: tuple, xs: tuple) -> tuple:
        (state, obs), (noise, keys) = carry, xs
        state, ts = vec.step(noise, state, draw(obs, keys))
        return (state, ts.obs), ts

    def run(key: jax.Array) -> TimeStep:
        key_reset, key_noise, key_action = jax.random.split(key, 3)
        keys = jax.random.split(key_action, (num_steps, num_envs))
        xs = (vec.noise(key_noise, num_steps, num_envs), keys)
        return jax.lax.scan(step, vec.reset(key_reset, num_envs), xs)[1]

    return jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(0)))


def first_end(flags: np.ndarray) -> np.ndarray:
    """Return the first step (from 1) of each column [T, N] at which a flag is set; 0 if it never is."""
    return np.where(flags.any(0), flags.argmax(0) + 1, 0)


def assert_same(a: Any, b: Any) -> None:
    """Check that two trees of arrays are equal."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_clock(make: Callable[[int], Env], num_steps: int = 60, num_envs: int = 16, **how: Any) -> None:
    """Check an environment's clock against its natural ends; `make(limit)` makes it with a clock of `limit` steps.

    An episode that ends by itself at step t is played three times: without a clock it is terminated at t; with a clock
    of t steps it is terminated at t as well, not truncated, although the clock runs out; with a clock of t - 1 steps it
    is truncated at t - 1, `final_obs` is the observation of the episode without a clock, and `obs` is another one.
    """
    free = play(make(100_000), num_steps, num_envs, **how)
    assert not free.ts.truncated.any()
    end = first_end(free.ts.terminated)
    n = int(np.argmax(np.where(end > 0, end, -1)))  # the longest episode
    t = int(end[n])
    assert t > 1, "no episode ends by itself: play longer"

    both = play(make(t), t, num_envs, **how).ts
    assert both.terminated[t - 1, n]
    assert not both.truncated[:, n].any()
    assert not both.terminated[: t - 1, n].any()

    cut = play(make(t - 1), t - 1, num_envs, **how).ts
    assert first_end(cut.truncated)[n] == t - 1
    assert not cut.terminated[:, n].any()
    last = jax.tree.map(lambda x: x[t - 2, n], (cut.final_obs, free.ts.final_obs))
    assert_same(*last)  # the value of this observation is bootstrapped
