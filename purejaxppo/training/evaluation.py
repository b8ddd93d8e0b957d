"""Evaluate a policy: whole episodes in fresh environments, independent of training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.stages import Compiled

from purejaxppo._util.aliases import Action, EnvState, KeyLike, Observation, PyTree, Shapes, TreeDef
from purejaxppo._util.trees import add_time_axis, all_finite, drop_time_axis, tree_where
from purejaxppo.devices.memory import tree_bytes
from purejaxppo.envs.families import columns
from purejaxppo.envs.masks import action_mask, has_action
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.envs.spaces import Leaf, Space, normalized_leaves
from purejaxppo.functional.running_stats import normalize
from purejaxppo.training.arguments import as_count, as_key, batch_shape, check_algorithm, check_policy
from purejaxppo.training.env_params import params_of_episodes
from purejaxppo.training.health import (
    MASK,
    OBSERVATION,
    PARAMETERS,
    REWARD,
    Fault,
    RunError,
    RunWarning,
    is_traced,
    nonfinite_per_env,
)
from purejaxppo.training.policy_file import Policy
from purejaxppo.types import Algorithm, TrainState

MAX_STEPS = 10_000  # steps of an episode, unless given
MAX_EPISODES = 100_000_000
BATCH_EPISODES = 16_384  # episodes played side by side
BATCH_BYTES = 2**28  # of the environments played side by side
FAULTS = ("", MASK, OBSERVATION, REWARD, PARAMETERS)  # kinds of faults, by the number in `Evaluation.fault`


class Evaluation(NamedTuple):
    """The first episodes of E fresh environments; several policies have axes in front, [S, E] or [H, S, E].

    An episode stops at `max_steps` and at its first fault: an observation or a reward that is NaN or Inf, or a state
    whose action mask allows nothing. Returns and lengths of such an episode are those of the steps before.
    """

    returns: Array  # [E] undiscounted sums of rewards
    lengths: Array  # [E] steps
    finished: Array  # [E] bool, terminated or truncated by the environment within max_steps
    fault: Array  # [E] int32, the fault that stopped an episode: index into FAULTS; 0: no fault

    @property
    def num_unfinished(self) -> Array:
        """Return how many episodes were cut before their end; [] or one number per policy."""
        return (~self.finished).sum(-1)


class Recording(NamedTuple):
    """Consecutive steps of one environment, leaves [T, ...]; steps after `done` was true are meaningless."""

    env_state: EnvState  # before the action; of a VecEnv, that of its smallest batch
    obs: Observation  # before the action, not normalized
    action: Action
    reward: Array
    done: Array  # bool, the step ended the episode


class Player(NamedTuple):
    """The functions that playing needs; hashable, so that it is a static argument.

    `batch` returns the player whose functions are those of a batch.
    """

    reset: Callable
    step: Callable
    initial_rnn_state: Callable
    apply: Callable
    normalized: tuple[bool | tuple[bool, ...], ...]  # which leaves of an observation are normalized
    action_leaves: tuple[Leaf, ...]  # of the action space, whose dicts would not be hashable
    action_structure: TreeDef
    noise: Callable | None = None  # of a VecEnv; None for an Env
    group_size: int = 1  # of a VecEnv; environments are played in multiples of it
    family: Callable | None = None  # of an environment with parameters
    per_column: bool = False  # the parameters have a leading axis, one entry for each group of columns

    @property
    def action_space(self) -> Space:
        """Return the action space."""
        return jax.tree.unflatten(self.action_structure, self.action_leaves)

    def batch(self, num_envs: int, env_params: PyTree = None, first_group: Array | int = 0) -> Player:
        """Return the player whose reset and step are those of a batch.

        Args:
            num_envs: N, a multiple of the group size.
            env_params: parameters of the environment, which may be traced; None leaves them as they are. If each column
                has separate ones, leaves [M, ...], and group g of all episodes gets entry g mod M.
            first_group: [] number of the first group of the batch.
        """
        if env_params is not None and self.per_column:
            index = first_group + jnp.arange(num_envs // self.group_size)
            env_params = jax.tree.map(lambda x: x[index % x.shape[0]], env_params)
        if self.noise is None:
            env = columns(
                Env(self.reset, self.step, (), (), family=self.family, per_column=self.per_column), env_params
            )
            return self._replace(reset=env.reset, step=env.step)
        if self.family is None or env_params is None:
            return self
        env = self.family(env_params)
        return self._replace(reset=env.reset, step=env.step, noise=env.noise)


def evaluate(
    algo: Algorithm,
    state: TrainState | Policy,
    key: KeyLike,
    num_episodes: int = 128,
    greedy: bool = True,
    max_steps: int | None = None,
    at_once: int | None = None,
    *,
    env_params: PyTree = None,
) -> Evaluation:
    """Play the first episode of `num_episodes` fresh environments.

    Observations are normalized with the statistics of `state`. Very many episodes are played in batches that fit
    memory. Inside of `jit` or `vmap` nothing is raised and nothing is warned of: look at `fault` and `finished`.

    Args:
        algo: of `make_ppo`.
        state: a TrainState or a Policy; states of a sweep, or of vmapped runs, are evaluated one by one.
        key: a key, typed or raw, or an integer seed; independent of the key of training.
        num_episodes: E.
        greedy: take the mode of the policy instead of a sample.
        max_steps: limit on the length of an episode. If it is not given the limit is 10,000, and a warning says how
            many episodes were cut there.
        at_once: environments to play side by side; fewer need less memory, and draw other random numbers. By default
            as many as fit 256 MB.
        env_params: parameters of the environment, for all policies. By default those of a TrainState, and those of the
            environment for a Policy. If each column has separate ones, leaves [M, ...], and episode e gets those of
            entry (e // group_size) mod M; the group size of an Env is 1.

    Returns:
        Leaves [E], after the axes [S] or [H, S] of several policies.

    Raises:
        TypeError, ValueError: an argument of another kind; the message says what to pass.
        RunError: the parameters or the environment returned NaN or Inf, or the environment allowed no action, in any
            episode; `error.result` holds the Evaluation.
    """
    check_algorithm(algo, "evaluate")
    check_policy(state, "evaluate")
    typed_key = as_key(key, "evaluate")
    num_episodes = as_count(num_episodes, "num_episodes")
    limit = MAX_STEPS if max_steps is None else as_count(max_steps, "max_steps")
    if num_episodes > MAX_EPISODES:
        raise ValueError(f"num_episodes = {num_episodes}: at most {MAX_EPISODES}; use several calls with other keys")
    player = _player(algo)
    policy = (state.params, state.obs_moments)
    played = _whole_groups(player, num_episodes)
    together = episodes_at_once(player) if at_once is None else _whole_groups(player, as_count(at_once, "at_once"))
    levels = _levels(algo, state, env_params)
    result = _play(player, played, limit, batch_shape(state), together, policy, levels, jnp.bool_(greedy), typed_key)
    if played > num_episodes:
        result = jax.tree.map(lambda x: x[..., :num_episodes], result)
    if not is_traced(result):
        _raise_if_faulty(algo.env.name, state, result)
        if max_steps is None:
            _warn_if_unfinished(result, limit)
    return result


def record(
    algo: Algorithm,
    state: TrainState | Policy,
    key: KeyLike,
    num_steps: int = 500,
    greedy: bool = True,
    *,
    env_params: PyTree = None,
) -> Recording:
    """Record the first `num_steps` steps of one fresh environment, to draw or to inspect them.

    Args:
        algo: of `make_ppo`.
        state: a TrainState or a Policy of one run.
        key: a key, typed or raw, or an integer seed.
        num_steps: T.
        greedy: take the mode of the policy instead of a sample.
        env_params: parameters of the environment, as of `evaluate`.

    Raises:
        TypeError, ValueError: an argument of another kind; the message says what to pass.
    """
    check_algorithm(algo, "record")
    check_policy(state, "record")
    if batch_shape(state):
        index = ", ".join("0" * len(batch_shape(state)))
        raise ValueError(f"record plays one policy; pick it with jax.tree.map(lambda x: x[{index}], state)")
    typed_key = as_key(key, "record")
    policy = (state.params, state.obs_moments)
    levels, _ = params_of_episodes(algo, state, env_params)
    return _record(_player(algo), as_count(num_steps, "num_steps"), policy, levels, jnp.bool_(greedy), typed_key)


def default_at_once(algo: Algorithm, num_episodes: int) -> int:
    """Return the number of environments that `evaluate` plays side by side by default, at most `num_episodes`."""
    player = _player(algo)
    return min(episodes_at_once(player), _whole_groups(player, num_episodes))


def half_at_once(algo: Algorithm, at_once: int) -> int | None:
    """Return half of `at_once`, rounded down to whole groups of environments; None if no group is left."""
    player = _player(algo)
    smaller = player.group_size * (at_once // player.group_size // 2)
    return smaller or None


def evaluation_shapes(algo: Algorithm, at_once: int) -> Shapes:
    """Return shapes and dtypes of the states and observations of environments played side by side, in whole groups."""
    player = _player(algo)
    count = _whole_groups(player, at_once)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(partial(_start, player.batch(count), count), key)


def compile_evaluation(
    algo: Algorithm, state: TrainState | Policy, num_episodes: int, max_steps: int, at_once: int
) -> Compiled:
    """Compile the program with which `evaluate` plays; it is kept for the first call.

    Args:
        algo: of `make_ppo`.
        state: a TrainState or a Policy of one run.
        num_episodes: E.
        max_steps: limit on the length of an episode.
        at_once: environments played side by side.
    """
    player = _player(algo)
    static = (player, _whole_groups(player, num_episodes), max_steps, (), _whole_groups(player, at_once))
    policy = (state.params, state.obs_moments)
    return _play.lower(*static, policy, _levels(algo, state), jnp.bool_(True), jax.random.key(0)).compile()


def _levels(algo: Algorithm, state: TrainState | Policy, env_params: PyTree = None) -> tuple[PyTree, PyTree]:
    """Return the parameters of the environment: those of each policy, or those that all policies share."""
    params, axes = params_of_episodes(algo, state, env_params)
    return (params, None) if axes else (None, params)


def _player(algo: Algorithm) -> Player:
    env, network = algo.env, algo.network
    normalized = normalized_leaves(env.observation_space, algo.config.normalize_observations)
    leaves, structure = jax.tree.flatten(env.action_space)
    functions = (env.reset, env.step, network.initial_rnn_state, network.apply)
    player = Player(*functions, normalized, tuple(leaves), structure, family=env.family, per_column=env.per_column)
    return player._replace(noise=env.noise, group_size=env.group_size) if isinstance(env, VecEnv) else player


def _raise_if_faulty(env_name: str, state: TrainState | Policy, result: Evaluation) -> None:
    """Raise RunError if an episode was cut at a fault, or if the parameters are not finite."""
    kinds = np.asarray(result.fault)
    if not kinds.any():
        return
    first = int(kinds[np.nonzero(kinds)].max())  # parameters that are not finite explain all other faults
    kind = FAULTS[first]
    where = kinds == first
    env = f"the environment {env_name}" if env_name else "the environment"
    if kind == PARAMETERS:
        leaves = jax.tree.leaves(jax.device_get(state.params))
        count = sum(int((~np.isfinite(leaf)).sum()) for leaf in leaves)
        fault = Fault(kind, f"the policy has {count} parameters that are NaN or infinite", count=count)
        raise RunError(fault, result)
    step = int(np.asarray(result.lengths)[where].min())
    texts = {
        MASK: f"{env} allowed no action",
        OBSERVATION: f"{env} returned a NaN or infinite observation",
        REWARD: f"{env} returned a NaN or infinite reward",
    }
    message = f"{texts[kind]} in {int(where.sum())} of {where.size} episodes, first in step {step} of an episode"
    advice = "; a state whose action mask forbids all actions must end the episode" if kind == MASK else ""
    raise RunError(Fault(kind, message + advice, step=step, count=int(where.sum())), result)


def _warn_if_unfinished(result: Evaluation, limit: int) -> None:
    count = int(np.sum(result.num_unfinished))
    if count:
        text = f"{count} of {np.size(result.finished)} episodes had not ended after {limit} steps and were cut there"
        warnings.warn(f"{text}; pass max_steps to choose the limit", RunWarning, stacklevel=3)


def episodes_at_once(player: Player) -> int:
    """Return how many environments are played side by side, so that they fit BATCH_BYTES."""
    example = jax.eval_shape(partial(_start, player.batch(player.group_size), player.group_size), jax.random.key(0))
    groups = min(BATCH_EPISODES // player.group_size, BATCH_BYTES // max(tree_bytes(example), 1))
    return player.group_size * max(1, groups)


def _whole_groups(player: Player, count: int) -> int:
    """Return the smallest multiple of the group size that is at least `count`."""
    return -(-count // player.group_size) * player.group_size


@partial(jax.jit, static_argnames=("player", "num_episodes", "max_steps", "shape", "together"))
def _play(
    player: Player,
    num_episodes: int,
    max_steps: int,
    shape: tuple[int, ...],
    together: int,
    policy: tuple,
    levels: tuple[PyTree, PyTree],
    greedy: Array,
    key: Array,
) -> Evaluation:
    """Play the episodes of one policy, or of every policy along the leading axes `shape`; results [*shape, E].

    `levels` are the parameters of the environment: those of each policy, or those that all policies share.
    """

    def play(policy: tuple, level: PyTree, key: Array) -> Evaluation:
        level = levels[1] if level is None else level
        return _in_batches(player, num_episodes, max_steps, together, (*policy, greedy, level), key)

    if not shape:
        return play(policy, None, key)
    count = math.prod(shape)
    flat = jax.tree.map(lambda x: x.reshape(count, *x.shape[len(shape) :]), (policy, levels[0]))
    policies = max(1, together // num_episodes)
    inputs = (*flat, jax.random.split(key, count))
    results = jax.lax.map(lambda x: play(*x), inputs, batch_size=min(policies, count))
    return jax.tree.map(lambda x: x.reshape(*shape, num_episodes), results)


def _in_batches(
    player: Player, num_episodes: int, max_steps: int, together: int, policy: tuple, key: Array
) -> Evaluation:
    """Play the episodes of one policy in batches of equal size, of at most `together`."""
    num_batches = -(-num_episodes // together)
    if num_batches == 1:
        return _first_episodes(player, num_episodes, max_steps, policy, key)
    size = _whole_groups(player, -(-num_episodes // num_batches))
    first_groups = jnp.arange(num_batches) * (size // player.group_size)
    inputs = (jax.random.split(key, num_batches), first_groups)
    results = jax.lax.map(lambda x: _first_episodes(player, size, max_steps, policy, *x), inputs)
    return jax.tree.map(lambda x: x.reshape(-1)[:num_episodes], results)


def _first_episodes(
    player: Player, num_episodes: int, max_steps: int, policy: tuple, key: Array, first_group: Array | int = 0
) -> Evaluation:
    reset_key, step_key = jax.random.split(key)
    policy, level = policy[:-1], policy[-1]
    player = player.batch(num_episodes, level, first_group)

    def step(carry: tuple) -> tuple:
        t, position, totals = carry
        over = totals.finished | (totals.fault > 0)  # a state after the end needs no allowed action
        fault = jnp.where(over, totals.fault, _state_fault(player, position[1], num_episodes))
        running = ~totals.finished & (fault == 0)
        position, _, ts = _act(player, policy, position, t == 0, jax.random.fold_in(step_key, t))
        fault = jnp.where(running & ~jnp.isfinite(ts.reward), FAULTS.index(REWARD), fault)
        running &= fault == 0
        totals = Evaluation(
            returns=totals.returns + jnp.where(running, ts.reward, 0.0),
            lengths=totals.lengths + running.astype(jnp.int32),
            finished=totals.finished | (running & (ts.terminated | ts.truncated)),
            fault=fault,
        )
        return t + 1, position, totals

    def unfinished(carry: tuple) -> Array:
        t, _, totals = carry
        return (t < max_steps) & ~(totals.finished | (totals.fault > 0)).all()

    bad_policy = jnp.where(all_finite(policy[0]), 0, FAULTS.index(PARAMETERS)).astype(jnp.int32)
    totals = Evaluation(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
        fault=jnp.broadcast_to(bad_policy, (num_episodes,)),
    )
    carry = (jnp.int32(0), _start(player, num_episodes, reset_key), totals)
    return jax.lax.while_loop(unfinished, step, carry)[2]


def _state_fault(player: Player, obs: Observation, num_envs: int) -> Array:
    """Return why no action can be taken in a state, an index into FAULTS; int32 [N]."""
    fault = jnp.where(nonfinite_per_env(obs, num_envs), FAULTS.index(OBSERVATION), 0)
    mask = action_mask(obs)
    if mask is not None:
        fault = jnp.where(has_action(player.action_space, mask), fault, FAULTS.index(MASK))
    return fault.astype(jnp.int32)


def _start(player: Player, num_envs: int, key: Array) -> tuple:
    """Return the position of fresh environments: (env_state, obs, rnn_state), leaves [N, ...]."""
    if player.noise is not None:
        return *player.reset(key, num_envs), player.initial_rnn_state(num_envs)
    env_state, obs = player.reset(jax.random.split(key, num_envs))
    return env_state, obs, player.initial_rnn_state(num_envs)


def _act(player: Player, policy: tuple, position: tuple, is_start: Array, key: Array) -> tuple:
    """Step every environment.

    Args:
        player: the functions to play with.
        policy: parameters, observation statistics, and whether to act greedily, bool []. Being traced, it makes both
            ways of playing one program.
        position: as `_start` returns it.
        is_start: [] this is the first step.
        key: of this step.

    Returns:
        The next position, the actions, and the TimeStep, leaves [N, ...].
    """
    params, moments, greedy = policy
    env_state, obs, rnn_state = position
    num_envs = jax.tree.leaves(obs)[0].shape[0]
    action_key, env_key = jax.random.split(key)
    seen = normalize(moments, obs, only=player.normalized)
    is_first = jnp.broadcast_to(is_start, (1, num_envs))
    rnn_state, distribution, _ = player.apply(params, rnn_state, add_time_axis(seen), is_first)
    distribution = drop_time_axis(distribution)
    action = distribution.to_env(tree_where(greedy, distribution.mode(), distribution.sample(action_key)))
    if player.noise is not None:
        env_state, ts = player.step(drop_time_axis(player.noise(env_key, 1, num_envs)), env_state, action)
    else:
        env_state, ts = player.step(jax.random.split(env_key, num_envs), env_state, action)
    return (env_state, ts.obs, rnn_state), action, ts


@partial(jax.jit, static_argnames=("player", "num_steps"))
def _record(player: Player, num_steps: int, policy: tuple, level: PyTree, greedy: Array, key: Array) -> Recording:
    reset_key, step_key = jax.random.split(key)
    player = player.batch(player.group_size, level)

    def step(position: tuple, t: Array) -> tuple[tuple, Recording]:
        env_state, obs, _ = position
        position, action, ts = _act(player, (*policy, greedy), position, t == 0, jax.random.fold_in(step_key, t))
        first = drop_time_axis(Recording((), obs, action, ts.reward, ts.terminated | ts.truncated))
        whole = env_state if player.noise is not None else drop_time_axis(env_state)
        return position, first._replace(env_state=whole)

    _, recording = jax.lax.scan(step, _start(player, player.group_size, reset_key), jnp.arange(num_steps))
    return recording
