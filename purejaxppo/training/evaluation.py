"""How good is the policy now: whole episodes in fresh environments, apart from training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo._util.trees import add_time_axis, drop_time_axis, tree_where
from purejaxppo.envs.spaces import normalized_leaves
from purejaxppo.functional.running_stats import normalize
from purejaxppo.types import Algorithm, TrainState

Array = jax.Array


class Evaluation(NamedTuple):
    """First episodes of E fresh environments. Where `finished` is false, the numbers are of a part only."""

    returns: Array  # [E] undiscounted
    lengths: Array  # [E] steps
    finished: Array  # [E] ended within max_steps


class Recording(NamedTuple):
    """One episode step by step, leaves [T, ...]; steps after `done` was true are not part of it."""

    env_state: Any  # before the action
    obs: Any
    action: Any
    reward: Array
    done: Array


class Player(NamedTuple):
    """What it takes to act; functions only, so that it is a static argument."""

    reset: Callable
    step: Callable
    initial_rnn_state: Callable
    apply: Callable
    normalized: tuple[bool, ...]


def evaluate(
    algo: Algorithm,
    state: TrainState,
    key: Array,
    num_episodes: int = 128,
    greedy: bool = True,
    max_steps: int = 10_000,
) -> Evaluation:
    """Play the first episode of `num_episodes` fresh environments, none of which is ever reset.

    greedy: the mode of the policy, else samples. key: its own, so that training is not moved. Observation
    statistics are those of `state`. An episode longer than max_steps counts as unfinished; one that came to a state
    with every action masked returns NaN.
    """
    policy = (state.params, state.obs_moments, jnp.bool_(greedy))
    return _first_episodes(_player(algo), num_episodes, max_steps, policy, key)


def record(algo: Algorithm, state: TrainState, key: Array, num_steps: int = 500, greedy: bool = True) -> Recording:
    """The first `num_steps` steps of one fresh environment, to draw or to look into."""
    return _record(_player(algo), num_steps, (state.params, state.obs_moments, jnp.bool_(greedy)), key)


def _player(algo: Algorithm) -> Player:
    env, network = algo.env, algo.network
    normalized = normalized_leaves(env.observation_space, algo.config.normalize_observations)
    return Player(env.reset, env.step, network.initial_rnn_state, network.apply, normalized)


def _start(player: Player, num_envs: int, key: Array) -> tuple:
    env_state, obs = jax.vmap(player.reset)(jax.random.split(key, num_envs))
    return env_state, obs, player.initial_rnn_state(num_envs)


def _act(player: Player, policy: tuple, position: tuple, starts: Array, key: Array) -> tuple:
    """One step of every environment -> (position, action, TimeStep). starts []: this is the first step.

    policy: parameters, statistics, and whether it is greedy, [] bool: both ways of playing are one program to compile.
    """
    (params, moments, greedy), (env_state, obs, rnn_state) = policy, position
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    action_key, env_key = jax.random.split(key)
    seen = normalize(moments, obs, only=player.normalized)
    is_first = jnp.broadcast_to(starts, (1, num_envs))
    rnn_state, distribution, _ = player.apply(params, rnn_state, add_time_axis(seen), is_first)
    distribution = drop_time_axis(distribution)
    drawn = tree_where(greedy, distribution.mode(), distribution.sample(action_key))
    action = distribution.to_env(drawn)
    env_state, ts = jax.vmap(player.step)(jax.random.split(env_key, num_envs), env_state, action)
    defined = ~jnp.isnan(distribution.log_prob(drawn))  # else every action was masked, and this one is made up
    return (env_state, ts.obs, rnn_state), action, ts._replace(reward=jnp.where(defined, ts.reward, jnp.nan))


@partial(jax.jit, static_argnames=("player", "num_episodes", "max_steps"))
def _first_episodes(player: Player, num_episodes: int, max_steps: int, policy: tuple, key: Array) -> Evaluation:
    reset_key, step_key = jax.random.split(key)

    def step(carry: tuple) -> tuple:
        t, position, totals = carry
        position, _, ts = _act(player, policy, position, t == 0, jax.random.fold_in(step_key, t))
        running = ~totals.finished
        returns = totals.returns + jnp.where(running, ts.reward, 0.0)
        lengths = totals.lengths + running.astype(jnp.int32)
        return t + 1, position, Evaluation(returns, lengths, totals.finished | ts.terminated | ts.truncated)

    start = _start(player, num_episodes, reset_key)
    zeros = Evaluation(jnp.zeros(num_episodes), jnp.zeros(num_episodes, jnp.int32), jnp.zeros(num_episodes, bool))
    carry = (jnp.int32(0), start, zeros)
    return jax.lax.while_loop(lambda carry: (carry[0] < max_steps) & ~carry[2].finished.all(), step, carry)[2]


@partial(jax.jit, static_argnames=("player", "num_steps"))
def _record(player: Player, num_steps: int, policy: tuple, key: Array) -> Recording:
    reset_key, step_key = jax.random.split(key)

    def step(position: tuple, t: Array) -> tuple[tuple, Recording]:
        env_state, obs, _ = position
        position, action, ts = _act(player, policy, position, t == 0, jax.random.fold_in(step_key, t))
        return position, drop_time_axis(Recording(env_state, obs, action, ts.reward, ts.terminated | ts.truncated))

    _, recording = jax.lax.scan(step, _start(player, 1, reset_key), jnp.arange(num_steps))
    return recording
