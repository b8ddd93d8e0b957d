"""Batch an environment and reset its finished episodes: the one place where resets happen.

`auto_reset` turns an Env into a VecEnv. The reset modes differ in when they compute the first states of new episodes,
in the memory that these take, and in their distribution. Axes: T time, N environments.

* "fresh": one first state for each step and environment, in one call before the rollout. Exact. Memory for T * N
  states.
* "every_step": a reset in each step, whether or not it is used. Exact. No memory, but the reset is in the loop.
* "pool": min(pool_size, T * N) states are computed before each rollout, and first states are drawn from them with
  replacement. Approximate. It saves resets; the memory is that of "fresh".
* "state_pool": the environment state holds `pool_size` states, from which first states are drawn with replacement;
  each step replaces the `refresh` oldest ones, or none. Approximate. Memory for `pool_size` states.

In the approximate modes each first state has the right distribution, but first states are not independent. Two episodes
may begin in the same state: with "pool" two of the same rollout, with "state_pool" two that begin within
pool_size / refresh steps of each other, and any two if `refresh` is 0. Use "state_pool" if a reset is more expensive
than a step, or if T * N states do not fit into memory. The states that `VecEnv.reset` returns are independent draws in
every mode.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Action, EnvState, Noise, Observation, PRNGKey, PyTree
from purejaxppo._util.trees import nonfinite
from purejaxppo.envs.families import columns, with_family
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, check_is_env, describe

FirstState: TypeAlias = tuple[EnvState, Observation]  # of an episode, leaves [...], [N, ...] or [T, N, ...]

# First states [P, ...] and the entry to replace next, [] int32; () in the modes that keep no pool.
Pool: TypeAlias = PyTree

RESETS = ("fresh", "every_step", "pool", "state_pool")


class StepNoise(NamedTuple):
    """Random inputs of the steps of a rollout."""

    step_key: jax.Array  # [T, N]
    # "fresh", "pool": first states (env_state, obs) [T, N, ...]; "every_step": keys [T, N]; "state_pool": PoolNoise
    reset: PyTree


class PoolNoise(NamedTuple):
    """Random inputs of the mode "state_pool"."""

    index: jax.Array  # [T, N]  int32, the entry of the pool that a finished episode is followed by
    refresh_key: jax.Array | tuple[()]  # [T, refresh]  keys of the states that replace entries of the pool; () if none


class AutoResetState(NamedTuple):
    """State of the batch if it is more than the states of the environments: with a pool or staggered episodes."""

    env_state: EnvState  # [N, ...]
    pool: Pool
    steps_left: jax.Array | tuple[()]  # [N] int32, until the first episode is cut; 0: never; () without staggering


class FirstStates(NamedTuple):
    """How a reset mode makes the first states of new episodes."""

    init: Callable[[PRNGKey], Pool]  # (key) -> pool, kept in the state of the batch
    noise: Callable[[PRNGKey, tuple[int, int]], Noise]  # (key, (T, N)) -> leaves [T, ...]
    take: Callable[[Pool, Noise], tuple[Pool, FirstState]]  # (pool, noise of a step) -> (pool, first states [N, ...])


def auto_reset(
    env: Env | VecEnv,
    resets: str = "auto",
    *,
    pool_size: int = 256,
    refresh: int = 1,
    stagger: int = 0,
    quarantine: bool = False,
) -> VecEnv:
    """Batch copies of an environment and start a new episode where one has ended.

    At the end of an episode, `obs` is the first observation of the next one and `final_obs` is the observation that the
    action led to. If both flags are set, `truncated` is cleared: a terminal state has no value to bootstrap from.

    Args:
        env: the environment. A VecEnv resets itself and is returned unchanged.
        resets: how first states are computed, one of `RESETS` (see the module), or "auto": the mode that the
            environment asks for (`env.resets`), else "fresh".
        pool_size: number of states in a pool.
        refresh: number of states of the pool that "state_pool" replaces in each step, by as many resets; 0: none, for
            an environment whose reset costs hundreds of steps.
        stagger: cut the first episode of each environment (as truncated) after a random number of 1 to `stagger` steps,
            so that environments with the same time limit do not end their episodes in the same step. The cut episodes
            count as finished, with lower returns. 0 cuts nothing.
        quarantine: start a new episode where an observation or a reward is NaN or infinite. The step is marked as
            `quarantined` and truncated, with the reward 0 and the first observation of the new episode as `final_obs`.
            A reset that returns NaN is not repaired.

    Raises:
        ValueError: an unknown mode, a size out of range, or a pool for an environment with separate parameters for each
            column.
    """
    if isinstance(env, VecEnv):
        return env
    mode = env.resets or "fresh" if resets == "auto" else resets
    _check(mode, pool_size, refresh, stagger)
    if env.per_column and "pool" in mode:
        raise ValueError(
            f"resets = {mode!r} shares first states between columns, but {describe(env)} has separate parameters for "
            'each column: use "fresh" or "every_step"'
        )
    first_states = {
        "fresh": _fresh,
        "every_step": _every_step,
        "pool": partial(_pool, pool_size=pool_size),
        "state_pool": partial(_state_pool, pool_size=pool_size, refresh=refresh),
    }[mode]

    def batch(each: Env) -> VecEnv:
        return _batch(each, first_states(each), stagger, quarantine, keeps_pool=mode == "state_pool")

    vec = batch(columns(env))
    if env.family is None:
        return vec
    check_is_env(env)
    return with_family(vec, env.params, lambda params: batch(columns(env, params)), env.per_column)


def _batch(env: Env, first_states: FirstStates, stagger: int, quarantine: bool, keeps_pool: bool) -> VecEnv:
    """Return the VecEnv whose new episodes begin in the first states given; `env` takes columns."""
    plain = not keeps_pool and not stagger  # the state is that of the environments alone

    def reset(key: PRNGKey, num_envs: int) -> tuple[EnvState, Observation]:
        if plain:
            return env.reset(jax.random.split(key, num_envs))
        key_env, key_pool, key_stagger = jax.random.split(key, 3)
        env_state, obs = env.reset(jax.random.split(key_env, num_envs))
        steps_left = jax.random.randint(key_stagger, (num_envs,), 1, stagger + 1, jnp.int32) if stagger else ()
        return AutoResetState(env_state, first_states.init(key_pool), steps_left), obs

    def noise(key: PRNGKey, num_steps: int, num_envs: int) -> StepNoise:
        shape = (num_steps, num_envs)
        key_step, key_reset = jax.random.split(key)
        return StepNoise(jax.random.split(key_step, shape), first_states.noise(key_reset, shape))

    def step(noise: StepNoise, state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, pool, steps_left = AutoResetState(state, (), ()) if plain else state
        # Reset and step are mapped separately: some simulators cannot have both under one map.
        pool, first = first_states.take(pool, noise.reset)
        env_state, timestep = env.step(noise.step_key, env_state, action)
        if quarantine:
            timestep = _quarantine(timestep)
        if stagger:
            timestep = timestep._replace(truncated=timestep.truncated | (steps_left == 1))
            steps_left = jnp.where(
                timestep.terminated | timestep.truncated, 0, jnp.maximum(jnp.asarray(steps_left) - 1, 0)
            )
        env_state, timestep = _start_episodes(first, env_state, timestep)
        return env_state if plain else AutoResetState(env_state, pool, steps_left), timestep

    # An episode that is cut by `stagger` is the first of its environment, so that the next truncation ends another one.
    gap = 1 if quarantine else env.truncation_gap
    spaces = (env.observation_space, env.action_space)
    return VecEnv(reset, noise, step, *spaces, env.name, quarantines=quarantine, truncation_gap=gap)


def _check(mode: str, pool_size: int, refresh: int, stagger: int) -> None:
    if mode not in RESETS:
        raise ValueError(f"resets must be one of {', '.join(map(repr, ('auto', *RESETS)))}, not {mode!r}")
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1, not {pool_size}")
    if not 0 <= refresh <= pool_size:
        raise ValueError(f"refresh must be from 0 to pool_size = {pool_size}, not {refresh}")
    if stagger < 0:
        raise ValueError(f"stagger must be at least 0, not {stagger}")


# Reset modes; `env` takes columns -----------------------------------------------------------------------------------


def _no_pool(key: PRNGKey) -> tuple[()]:
    return ()


def _given(pool: Pool, noise: Noise) -> tuple[Pool, FirstState]:
    """Return the first states that the noise consists of."""
    return pool, noise


def _fresh(env: Env) -> FirstStates:
    def noise(key: PRNGKey, shape: tuple[int, int]) -> FirstState:
        return jax.vmap(env.reset)(jax.random.split(key, shape))

    return FirstStates(_no_pool, noise, _given)


def _every_step(env: Env) -> FirstStates:
    def take(pool: Pool, keys: jax.Array) -> tuple[Pool, FirstState]:
        return pool, env.reset(keys)

    return FirstStates(_no_pool, jax.random.split, take)


def _pool(env: Env, pool_size: int) -> FirstStates:
    def noise(key: PRNGKey, shape: tuple[int, int]) -> FirstState:
        size = min(pool_size, shape[0] * shape[1])
        key_pool, key_index = jax.random.split(key)
        pool = env.reset(jax.random.split(key_pool, size))
        index = jax.random.randint(key_index, shape, 0, size)
        return jax.tree.map(lambda x: x[index], pool)

    return FirstStates(_no_pool, noise, _given)


def _state_pool(env: Env, pool_size: int, refresh: int) -> FirstStates:
    def is_batched(x: jax.Array) -> bool:  # else it is a constant that all environments share
        return x.shape[:1] == (pool_size,)

    def init(key: PRNGKey) -> Pool:
        return env.reset(jax.random.split(key, pool_size)), jnp.int32(0)

    def noise(key: PRNGKey, shape: tuple[int, int]) -> PoolNoise:
        key_index, key_refresh = jax.random.split(key)
        index = jax.random.randint(key_index, shape, 0, pool_size, jnp.int32)
        return PoolNoise(index, jax.random.split(key_refresh, (shape[0], refresh)) if refresh else ())

    def take(pool: Pool, noise: PoolNoise) -> tuple[Pool, FirstState]:
        states, position = pool
        if not isinstance(noise.refresh_key, tuple):
            places = (position + jnp.arange(refresh, dtype=jnp.int32)) % pool_size  # the oldest ones
            new = env.reset(noise.refresh_key)
            states = jax.tree.map(lambda old, x: old.at[places].set(x) if is_batched(old) else old, states, new)
        first = jax.tree.map(lambda x: x[noise.index] if is_batched(x) else x, states)
        return (states, (position + refresh) % pool_size), first

    return FirstStates(init, noise, take)


# The start of new episodes -------------------------------------------------------------------------------------------


def _start_episodes(first: FirstState, env_state: EnvState, timestep: TimeStep) -> tuple[EnvState, TimeStep]:
    """Replace state and observation by the first ones of a new episode where one has ended; leaves [N, ...]."""
    done = timestep.terminated | timestep.truncated
    env_state, obs = jax.tree.map(lambda x, y: choose(done, x, y), first, (env_state, timestep.obs))
    truncated = timestep.truncated & ~timestep.terminated
    final_obs = timestep.final_obs
    if not isinstance(timestep.quarantined, tuple):
        final_obs = jax.tree.map(partial(choose, timestep.quarantined), obs, final_obs)
    return env_state, timestep._replace(obs=obs, truncated=truncated, final_obs=final_obs)


def _quarantine(timestep: TimeStep) -> TimeStep:
    """Truncate the episodes of environments that returned NaN or infinity, and mark their steps; leaves [N, ...]."""
    found = nonfinite((timestep.obs, timestep.final_obs, timestep.reward), timestep.terminated.shape)

    def zero(x: jax.Array) -> jax.Array:
        return choose(found, jnp.zeros_like(x), x)

    return timestep._replace(
        reward=zero(timestep.reward),
        terminated=timestep.terminated & ~found,
        truncated=timestep.truncated | found,
        info=jax.tree.map(zero, timestep.info),
        quarantined=found,
    )


def choose(done: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x where done, else y; also for typed keys.

    Args:
        done: bool [N], or [].
        x: leaf of a first state, [N, ...]; of any shape if `done` is [].
        y: leaf of a later state, as x. One without an environment axis is a constant that all environments share, such
            as a table of a simulator's model: it stays as it is.
    """
    if y.shape[: done.ndim] != done.shape:
        return y
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.where(_like(done, x), x, y)
    # JAX's reuse check counts a choice between keys as a use of both, but not a choice between their data.
    x_data, y_data = jax.random.key_data(x), jax.random.key_data(y)
    return jax.random.wrap_key_data(jnp.where(_like(done, x_data), x_data, y_data), impl=jax.random.key_impl(x))


def _like(done: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcast done [N] or [] to the shape of x."""
    return jnp.broadcast_to(done.reshape(done.shape + (1,) * (x.ndim - done.ndim)), x.shape)
