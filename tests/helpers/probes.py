"""Probe environments: tasks so small that their values and best policies are known on paper.

Each is a function that returns an `Env`. V is the value of the first state under the policy named.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, box
from purejaxppo.envs.wrappers.episodes import time_limit

# For tests that run a program once: compiling takes a third of the time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# --- playing ----------------------------------------------------------------------------------------------


def rollout(
    env: Env,
    actions: Any,
    key: jax.Array,
    resets: str = "fresh",
    pool_size: int = 256,
    shape: tuple[int, int] | None = None,
) -> tuple:
    """Apply actions [T, N] to a self-resetting environment -> (noise, first obs, last state, TimeStep [T, N]).

    `actions` may be a function without arguments that returns actions of the given shape.
    """
    vec = auto_reset(env, resets, pool_size=pool_size)
    num_steps, num_envs = shape or actions.shape[:2]

    @quick_jit
    def run(key: jax.Array) -> tuple:
        key_reset, key_noise = jax.random.split(key)
        env_state, obs = vec.reset(key_reset, num_envs)
        noise = vec.noise(key_noise, num_steps, num_envs)

        def step(env_state: Any, x: tuple) -> tuple:
            env_state, timestep = vec.step(x[0], env_state, x[1])
            return env_state, timestep

        given = actions() if callable(actions) else actions
        env_state, timesteps = jax.lax.scan(step, env_state, (noise, given))
        return noise, obs, env_state, timesteps

    return run(jax.random.clone(key))


def play(env: Env, actions: list, seed: int = 0) -> tuple[Any, list[TimeStep]]:
    """Step one environment without resets -> (first obs, TimeSteps)."""
    keys = list(jax.random.split(jax.random.key(seed), len(actions) + 1))
    env_state, obs = quick_jit(env.reset)(keys[0])
    step, timesteps = quick_jit(env.step), []
    for action, key in zip(actions, keys[1:], strict=True):
        env_state, timestep = step(key, env_state, action)
        timesteps.append(timestep)
    return obs, timesteps


def integer(i: int) -> jax.Array:
    return jnp.asarray(i, jnp.int32)


# --- one step, or two -------------------------------------------------------------------------------------


def _flag(value: Any) -> jax.Array:
    return jnp.asarray(value, bool)


def _timestep(obs: Any, reward: Any, terminated: Any, truncated: Any = False) -> TimeStep:
    return TimeStep(obs, jnp.asarray(reward, jnp.float32), _flag(terminated), _flag(truncated), obs)


def _one_step(draw: Callable, reward: Callable, observation_space: Space, action_space: Space) -> Env:
    """One observation from draw(key), one action, reward(obs, action), the end."""

    def reset(key: jax.Array) -> tuple[Any, Any]:
        obs = draw(key)
        return obs, obs

    def step(key: jax.Array, obs: Any, action: Any) -> tuple[Any, TimeStep]:
        return obs, _timestep(obs, reward(obs, action), True)

    return Env(reset, step, observation_space, action_space)


def _one(key: jax.Array) -> jax.Array:
    return jnp.ones((1,), jnp.float32)


def _sign(key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, shape=(1,)), jnp.float32(1), jnp.float32(-1))


def constant_reward() -> Env:
    """One step with reward 1 for every action: V = 1."""
    return _one_step(_one, lambda obs, action: 1.0, box(-1, 1, (1,)), Discrete(2))


def reward_is_observation() -> Env:
    """The observation is -1 or 1 and so is the reward: V(obs) = obs."""
    return _one_step(_sign, lambda obs, action: obs[0], box(-1, 1, (1,)), Discrete(2))


def reward_by_action() -> Env:
    """Reward 1 for action 1, -1 for action 0: the best V = 1."""
    return _one_step(_one, lambda obs, action: jnp.where(action == 1, 1.0, -1.0), box(-1, 1, (1,)), Discrete(2))


def reward_by_action_and_observation() -> Env:
    """Reward 1 for action 1 at observation 1 and for action 0 at observation -1, else -1: the best V = 1."""

    def reward(obs: jax.Array, action: jax.Array) -> jax.Array:
        return jnp.where((action == 1) == (obs[0] > 0), 1.0, -1.0)

    return _one_step(_sign, reward, box(-1, 1, (1,)), Discrete(2))


def reward_by_distance(target: float = 0.5, action_dim: int = 1, bound: float = 1.0) -> Env:
    """Reward -sum_i (a_i - target)²: the best action is `target` (inside the bounds), the best V = 0."""

    def reward(obs: jax.Array, action: jax.Array) -> jax.Array:
        return -jnp.sum((action - target) ** 2)

    return _one_step(_one, reward, box(-1, 1, (1,)), box(-bound, bound, (action_dim,)))


def reward_by_many_actions(nvec: tuple[int, ...] = (3, 4)) -> Env:
    """The observation shows one wanted number for each action, one-hot; reward is the share hit: the best V = 1."""
    sizes = np.asarray(nvec)

    def draw(key: jax.Array) -> jax.Array:
        wanted = jax.random.randint(key, sizes.shape, 0, jnp.asarray(sizes, jnp.int32), jnp.int32)
        parts = [jax.nn.one_hot(wanted[i], n, dtype=jnp.float32) for i, n in enumerate(nvec)]
        return jnp.concatenate(parts)

    def reward(obs: jax.Array, action: jax.Array) -> jax.Array:
        starts = jnp.asarray(np.cumsum(sizes) - sizes, jnp.int32)
        return jnp.mean(obs[starts + action])

    return _one_step(draw, reward, box(0, 1, (sum(nvec),)), MultiDiscrete(nvec))


def reward_by_mixed_action(target: float = 0.5) -> Env:
    """Dict action: reward 1 for choice 2, less the squared distance of push from `target`: the best V = 1."""
    space: Space = {"choice": Discrete(3), "push": box(-1, 1, (2,))}

    def reward(obs: jax.Array, action: dict[str, jax.Array]) -> jax.Array:
        hit = jnp.where(action["choice"] == 2, 1.0, 0.0)
        return hit - jnp.sum((action["push"] - target) ** 2)

    return _one_step(_one, reward, box(-1, 1, (1,)), space)


def two_steps() -> Env:
    """Observation 0, then 1; reward 0, then 1: V(0) = γ, V(1) = 1."""

    def observe(time: jax.Array) -> jax.Array:
        return time.astype(jnp.float32)[None]

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        time = jnp.zeros((), jnp.int32)
        return time, observe(time)

    def step(key: jax.Array, time: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        return time + 1, _timestep(observe(time + 1), time, time == 1)

    return Env(reset, step, box(0, 2, (1,)), Discrete(2))


def endless(limit: int = 10) -> Env:
    """Reward 1 forever, truncated by a time limit that is not observed: V = 1/(1-γ), not the truncated sum."""

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        return state, _timestep(state, 1.0, False)

    env = Env(lambda key: (_one(key), _one(key)), step, box(-1, 1, (1,)), Discrete(2))
    return time_limit(env, limit)


# --- a chain with an exact solution -----------------------------------------------------------------------


class Tabular(NamedTuple):
    """A finite MDP in float64. Rows of `transition` sum to less than 1: the rest is termination."""

    transition: np.ndarray  # [S, A, S']
    reward: np.ndarray  # [S, A]
    start: np.ndarray  # [S]

    def value(self, policy: np.ndarray, gamma: float) -> np.ndarray:
        """V [S] of a policy [S, A]: (I - γ P_π)⁻¹ r_π."""
        transition = np.einsum("sa,sat->st", policy, self.transition)
        return np.linalg.solve(np.eye(len(self.start)) - gamma * transition, (policy * self.reward).sum(1))

    def best_policy(self, gamma: float) -> np.ndarray:
        """An optimal policy [S, A], by policy iteration."""
        policy = np.eye(self.reward.shape[1])[np.zeros(len(self.start), int)]
        while True:
            q = self.reward + gamma * self.transition @ self.value(policy, gamma)
            better = np.eye(self.reward.shape[1])[q.argmax(1)]
            if (better == policy).all():
                return policy
            policy = better


def chain_tabular(slip: float = 0.1, end: float = 0.05) -> Tabular:
    """Five states in a row; action 1 goes right at a cost of .05, action 0 left; `slip`: the other way.

    Going left in the first state pays .1, going right in the last pays 1. Every step ends the episode with
    probability `end`. Starts in the first state (.8) or the second (.2).
    """
    size = 5
    transition = np.zeros((size, 2, size))
    for state in range(size):
        left, right = max(state - 1, 0), min(state + 1, size - 1)
        for action, (there, else_there) in enumerate(((left, right), (right, left))):
            transition[state, action, there] += (1 - end) * (1 - slip)
            transition[state, action, else_there] += (1 - end) * slip
    reward = np.tile(np.array([0.0, -0.05]), (size, 1))
    reward[0, 0], reward[size - 1, 1] = 0.1, 1.0
    return Tabular(transition, reward, np.array([0.8, 0.2, 0.0, 0.0, 0.0]))


def chain(tabular: Tabular | None = None, limit: int | None = None) -> Env:
    """The chain as an environment with one-hot observations; optionally cut by a time limit."""
    tabular = chain_tabular() if tabular is None else tabular
    size = len(tabular.start)
    ends = np.concatenate([tabular.transition, 1 - tabular.transition.sum(2, keepdims=True)], axis=2)
    reach, reward = jnp.asarray(ends.cumsum(2), jnp.float32), jnp.asarray(tabular.reward, jnp.float32)
    first = jnp.asarray(tabular.start.cumsum(), jnp.float32)

    def pick(key: jax.Array, cumulative: jax.Array) -> jax.Array:
        index = jnp.sum(jax.random.uniform(key, dtype=jnp.float32) >= cumulative).astype(jnp.int32)
        return jnp.minimum(index, cumulative.shape[0] - 1)

    def observe(state: jax.Array) -> jax.Array:
        return jax.nn.one_hot(state, size, dtype=jnp.float32)

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = pick(key, first)
        return state, observe(state)

    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        there = pick(key, reach[state, action])
        ended = there == size
        there = jnp.where(ended, state, there)
        return there, _timestep(observe(there), reward[state, action], ended)

    env = Env(reset, step, box(0, 1, (size,)), Discrete(reward.shape[1]))
    return env if limit is None else time_limit(env, limit)


# --- masks, and the order of events -----------------------------------------------------------------------


class MaskedState(NamedTuple):
    """State of `masked`."""

    key: jax.Array  # of the observations to come: a typed key inside of a state
    wanted: jax.Array  # []  int32
    time: jax.Array  # []  int32


def masked(num_actions: int = 6, num_steps: int = 4) -> Env:
    """Each step about half of the actions are allowed, one of those is shown one-hot and pays 1.

    A forbidden action pays -10 and ends the episode. The best return is `num_steps`; the observation is
    {"observation": [K] float32, "action_mask": [K] bool}.
    """

    def show(key: jax.Array, time: jax.Array) -> tuple[MaskedState, dict[str, jax.Array], jax.Array]:
        key, key_wanted, key_mask = jax.random.split(key, 3)
        wanted = jax.random.randint(key_wanted, (), 0, num_actions, jnp.int32)
        mask = jax.random.bernoulli(key_mask, shape=(num_actions,)) | (
            jnp.arange(num_actions, dtype=jnp.int32) == wanted
        )
        obs = {"observation": jax.nn.one_hot(wanted, num_actions, dtype=jnp.float32), "action_mask": mask}
        return MaskedState(key, wanted, time), obs, mask

    # The mask is kept beside the state so that a step knows what was allowed.
    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, obs, mask = show(key, jnp.zeros((), jnp.int32))
        return (state, mask), obs

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, TimeStep]:
        before, allowed = state
        reward = jnp.where(action == before.wanted, 1.0, 0.0)
        reward = jnp.where(allowed[action], reward, -10.0)
        after, obs, mask = show(before.key, before.time + 1)
        terminated = (after.time >= num_steps) | ~allowed[action]
        return (after, mask), _timestep(obs, reward, terminated)

    flags = Box(np.zeros(num_actions, bool), np.ones(num_actions, bool))
    return Env(reset, step, {"observation": box(0, 1, (num_actions,)), "action_mask": flags}, Discrete(num_actions))


class ScriptedState(NamedTuple):
    """State of `scripted`."""

    start: jax.Array  # []  float32, which episode this is
    time: jax.Array  # []  int32


def scripted(
    terminate_at: tuple[int, ...] = (3,), truncate_at: tuple[int, ...] = (3,), random_start: bool = True
) -> Env:
    """Observation [start, time], reward 100 time + action; five actions.

    Terminated at the times of `terminate_at` and after action 3, truncated at those of `truncate_at` and
    after action 4. `start` is a random number of the episode (0 if not `random_start`), so that a test sees
    which reset a state comes from.
    """

    def observe(state: ScriptedState) -> jax.Array:
        return jnp.stack([state.start, state.time.astype(jnp.float32)])

    def reset(key: jax.Array) -> tuple[ScriptedState, jax.Array]:
        start = jax.random.uniform(key, dtype=jnp.float32) if random_start else jnp.zeros((), jnp.float32)
        state = ScriptedState(start, jnp.zeros((), jnp.int32))
        return state, observe(state)

    def step(key: jax.Array, state: ScriptedState, action: jax.Array) -> tuple[ScriptedState, TimeStep]:
        state = state._replace(time=state.time + 1)
        reward = 100.0 * state.time.astype(jnp.float32) + action.astype(jnp.float32)
        times = (jnp.asarray(t, jnp.int32) for t in (terminate_at, truncate_at))
        terminated, truncated = (jnp.any(state.time == t) for t in times)
        return state, _timestep(observe(state), reward, terminated | (action == 3), truncated | (action == 4))

    return Env(reset, step, box(0, np.inf, (2,)), Discrete(5))


def dead_end(time: int, num_actions: int = 3) -> Env:
    """Every action is allowed until step `time` of an episode, where none is; the episode ends five steps later."""

    def show(now: jax.Array) -> dict[str, jax.Array]:
        return {"observation": jnp.ones(2, jnp.float32), "action_mask": jnp.broadcast_to(now != time, (num_actions,))}

    def reset(key: jax.Array) -> tuple[Any, Any]:
        return jnp.int32(0), show(jnp.int32(0))

    def step(key: jax.Array, now: jax.Array, action: jax.Array) -> tuple[Any, TimeStep]:
        return now + 1, _timestep(show(now + 1), jnp.float32(1.0), now + 1 >= time + 5)

    flags = Box(np.zeros(num_actions, bool), np.ones(num_actions, bool))
    space = {"observation": box(0, 1, (2,)), "action_mask": flags}
    return Env(reset, step, space, Discrete(num_actions), "DeadEnd-v0")
