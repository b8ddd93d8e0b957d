"""One PPO iteration, top to bottom in the order of the source's section 1.11.

rollout -> targets -> optimisation -> policy update: `update(state, hyperparams) -> (state, metrics)` is one pure
function, hence one XLA program. Axes: T time, N environments, L length of a training sequence (1 for feed-forward
networks), M = T * N / L sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo._util.trees import add_time_axis, drop_time_axis, strong_dtypes, tree_where
from purejaxppo.batching.burn_in import burn_in_steps, start_rnn_state
from purejaxppo.batching.gather import pack, to_device_layout
from purejaxppo.batching.microbatches import choose_partition, map_microbatches, mean_gradient, num_microbatches
from purejaxppo.batching.sequences import to_sequences
from purejaxppo.batching.shuffles import SHUFFLES
from purejaxppo.config.schema import Config, Hyperparams, minibatch_shape
from purejaxppo.devices.sharding import replicate, shard
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.spaces import normalized_leaves
from purejaxppo.envs.wrappers.actions import clip_action
from purejaxppo.functional import episode_stats, running_stats
from purejaxppo.functional.advantages import TARGETS, next_state_values, normalize_advantages
from purejaxppo.functional.diagnostics import improvement, mean_residual
from purejaxppo.functional.kl_control import apply_control, init_control, should_stop, update_control
from purejaxppo.functional.objectives import OBJECTIVES, importance_ratio, total_loss, value_loss
from purejaxppo.functional.trpo import natural_step
from purejaxppo.metrics import REPORT, Metrics, describe, merge_stats, reduce_metrics, report
from purejaxppo.networks.protocol import check_fit
from purejaxppo.optimizer import apply_gradients, optimizer
from purejaxppo.types import Algorithm, Batch, Parts, TrainState, Transition

Array = jax.Array


def make_ppo(env, network, config=None, *, objective=None, target_fn=None, shuffle=None) -> Algorithm:
    """PPO for `env` and `network`. A function handed in takes the place of the one that `config` names.

    Continuous actions are clipped at the environment's own bounds, on its side of the log-probability.
    Raises ConfigError on a bad config and ValueError on an environment that breaks the protocol, all problems at once.
    """
    config, env = config or Config(), clip_action(env)
    cut = choose_partition(config, *minibatch_shape(config, check_fit(env, network, config, objective)))
    objective = objective or OBJECTIVES["none" if config.policy_step == "trpo" else config.objective]
    target_fn, shuffle = target_fn or TARGETS[config.targets], shuffle or SHUFFLES[config.shuffle]
    normalized = normalized_leaves(env.observation_space, config.normalize_observations)
    parts = Parts(auto_reset(env, config.resets), network, config, objective, target_fn, shuffle, normalized, cut)
    alone = partial(update, parts._replace(cut=cut._replace(num_devices=1)))
    return Algorithm(partial(init, parts), partial(update, parts), env, network, config, cut.num_devices, alone)


def init(parts: Parts, key: Array, h: Hyperparams) -> TrainState:
    """The state before the first iteration."""
    num_envs = parts.config.num_envs
    param_key, env_key, key = jax.random.split(key, 3)
    params = parts.network.init(param_key)
    env_state, obs = parts.env.reset(env_key, num_envs)
    state = TrainState(
        params=params,
        opt_state=optimizer(h).init(ravel_pytree(params)[0]),
        env_state=env_state,
        obs=obs,
        rnn_state=parts.network.initial_rnn_state(num_envs),
        is_first=jnp.ones(num_envs, bool),
        obs_moments=running_stats.init_moments(drop_time_axis(obs)),
        reward_scaler=running_stats.init_reward_scaler(num_envs),
        control=init_control(h),
        last_residual=jnp.float32(jnp.nan),
        episodes=episode_stats.init_episode_stats(num_envs),
        key=key,
        num_updates=jnp.int32(0),
    )
    return strong_dtypes(state)


def update(parts: Parts, state: TrainState, h: Hyperparams) -> tuple[TrainState, Metrics]:
    """One iteration (1.11): rollout, targets, K epochs of minibatches, θ_old ← θ."""
    key, rollout_key, epoch_key = jax.random.split(state.key, 3)
    progress = state.num_updates.astype(jnp.float32) / max(parts.config.num_updates, 1)
    h, left = apply_control(state.control, h), jnp.maximum(1.0 - h.lr_anneal * progress, 0.0)
    h = h._replace(learning_rate=h.learning_rate * left, trpo_delta=h.trpo_delta * left)

    state, rollout = collect_rollout(parts, state, rollout_key)
    done = rollout.terminated | rollout.truncated
    episodes, finished = episode_stats.summarize_episodes(state.episodes, rollout.reward, done)
    scaler = state.reward_scaler
    if parts.config.scale_rewards:
        scaler, rewards = running_stats.scale_rewards(scaler, rollout.reward, done, h.gamma)
        rollout = rollout._replace(reward=rewards)

    batch_of = partial(compute_targets, parts, state=state, rollout=rollout, h=h)
    batch = batch_of(state.params)
    trpo = parts.config.policy_step == "trpo"  # the epochs then fit the values and leave the policy alone
    fit = h._replace(ent_coef=jnp.zeros_like(h.ent_coef)) if trpo else h
    params, opt_state, steps = optimize(parts, state, batch, batch_of, fit, epoch_key)
    if trpo:
        params = natural_step(
            lambda p: evaluate_actions(parts, p, batch), params, surrogate_advantage(parts, batch.advantage), h
        )

    moments = state.obs_moments  # moved only now: a frozen normaliser keeps the first ratio at 1
    if parts.config.normalize_observations:
        moments = running_stats.update_moments(moments, rollout.obs)
    ratio, kl = map_microbatches(lambda part: evaluate_actions(parts, params, part)[:2], batch, parts.cut)
    whole, residual = describe(batch, ratio, kl), state.last_residual
    if parts.config.diagnostics:
        before, residual = (
            mean_residual(rollout, *state_values(parts, p, state, rollout), h.gamma) for p in (state.params, params)
        )
        whole["diagnostics"] = improvement(ratio, kl, batch.advantage, before - state.last_residual, h.gamma)
    used = {name: getattr(h, name) for name in ("learning_rate", "clip_eps", "beta")}
    metrics = reduce_metrics(steps, h, finished, **whole, **used)
    control = update_control(state.control, metrics.kl, h)
    state = state._replace(params=params, opt_state=opt_state, obs_moments=moments, reward_scaler=scaler, key=key)
    state = state._replace(control=control, last_residual=residual, episodes=episodes)
    return state._replace(num_updates=state.num_updates + 1), metrics


# 1. Rollout ----------------------------------------------------------------------------------------------------------


def collect_rollout(parts: Parts, state: TrainState, key: Array) -> tuple[TrainState, Transition]:
    """T steps of N environments with π_old. All randomness is drawn before the scan, in one call each."""
    num_steps, num_envs = parts.config.num_steps, parts.config.num_envs
    env_key, action_key = jax.random.split(key)

    def policy(rnn_state: Any, obs: Any, is_first: Array) -> tuple[Any, Any]:
        inputs = add_time_axis((observe(parts, state, obs), is_first))
        rnn_state, distribution, _ = parts.network.apply(state.params, rnn_state, *inputs)
        return rnn_state, drop_time_axis(distribution)

    def step(carry: tuple, noise: tuple) -> tuple[tuple, Transition]:
        env_state, obs, rnn_state, is_first = carry
        next_rnn_state, distribution = policy(rnn_state, obs, is_first)
        action = distribution.sample_from(noise[1])
        env_state, ts = parts.env.step(noise[0], env_state, distribution.to_env(action))
        outcome = (ts.reward, ts.terminated, ts.truncated, ts.final_obs)
        transition = Transition(obs, action, *outcome, distribution, rnn_state, is_first)
        return (env_state, ts.obs, next_rnn_state, ts.terminated | ts.truncated), transition

    start = shard((state.env_state, state.obs, state.rnn_state, state.is_first), parts.cut.num_devices)
    _, distribution = jax.eval_shape(policy, state.rnn_state, state.obs, state.is_first)
    noise = (parts.env.noise(env_key, num_steps, num_envs), distribution.noise(action_key, (num_steps,)))
    noise = shard(noise, parts.cut.num_devices, axis=1)
    (env_state, obs, rnn_state, is_first), rollout = jax.lax.scan(step, start, noise)
    return state._replace(env_state=env_state, obs=obs, rnn_state=rnn_state, is_first=is_first), rollout


def observe(parts: Parts, state: TrainState, obs: Any) -> Any:
    """What the network reads: the observation, its quantities normalised where the config says so."""
    return running_stats.normalize(state.obs_moments, obs, only=parts.normalized)


# 2. Targets ----------------------------------------------------------------------------------------------------------


def state_values(parts: Parts, params: Any, state: TrainState, rollout: Transition) -> tuple[Array, Array]:
    """V(s_t) and V(s'_t), [T, N] each, s'_t before any reset; `state` is the one after the rollout."""

    def value(rnn_state: Any, obs: Any, is_first: Array) -> Array:
        return parts.network.apply(params, rnn_state, observe(parts, state, obs), is_first)[2]

    def final_value(t: Array) -> Array:
        at = jax.tree.map(lambda x: jax.vmap(lambda x, t: x[t], (1, 0))(x, t), rollout)
        # s_t and s'_t in turn, from the carry before the step: a memory that saw s_t and no reset
        obs = jax.tree.map(lambda a, b: jnp.stack([a, b]), at.obs, at.final_obs)
        return value(at.rnn_state, obs, jnp.stack([at.is_first, jnp.zeros_like(at.is_first)]))[1]

    whole = (add_time_axis(drop_time_axis(rollout.rnn_state)), rollout.obs, rollout.is_first)
    values = map_microbatches(lambda x: value(drop_time_axis(x[0]), *x[1:]), whole, parts.cut)
    last = value(state.rnn_state, *add_time_axis((state.obs, state.is_first)))
    cut = rollout.truncated & ~rollout.terminated
    return values, next_state_values(values, last, cut, final_value)


def compute_targets(parts: Parts, params: Any, *, state: TrainState, rollout: Transition, h: Hyperparams) -> Batch:
    """Advantages and targets (9)(10) of the rollout, cut into sequences."""
    values, next_values = state_values(parts, params, state, rollout)
    rewards, terminated, truncated = rollout.reward, rollout.terminated, rollout.truncated
    if parts.config.truncation == "mask":  # as if terminated, with δ_t = 0
        rewards = jnp.where(truncated & ~terminated, values, rewards)
    if parts.config.truncation != "bootstrap":
        terminated, truncated = terminated | truncated, jnp.zeros_like(truncated)
    returns = (rewards, values, next_values, terminated, truncated)
    advantage, target = parts.target_fn(*returns, h, parts.config.n_step)
    log_prob = rollout.distribution.log_prob(rollout.action)
    length = (parts.config.sequence_length or parts.config.num_steps) if jax.tree.leaves(rollout.rnn_state) else 1
    policy = (rollout.action, rollout.distribution, log_prob)
    batch = Batch(
        observe(parts, state, rollout.obs), rollout.is_first, rollout.rnn_state, *policy, values, advantage, target
    )
    devices = parts.cut.num_devices
    batch = shard(jax.tree.map(lambda x: to_sequences(x, length, devices), batch), devices, axis=1)
    lead = burn_in_steps(batch, parts.config.num_envs, parts.config.burn_in, devices)
    return batch._replace(rnn_state=add_time_axis(drop_time_axis(batch.rnn_state)), burn_in=lead)


# 3. Optimisation -----------------------------------------------------------------------------------------------------


def evaluate_actions(parts: Parts, params: Any, batch: Batch) -> tuple[Array, Array, Array, Array]:
    """Ratio (4), KL(π_old(·|s) || π_θ(·|s)), entropy (12) and V_φ(s) along sequences, [L, M] each."""
    rnn_state = start_rnn_state(parts.network.apply, params, batch.rnn_state, batch.burn_in)
    _, distribution, value = parts.network.apply(params, rnn_state, batch.obs, batch.is_first)
    ratio = importance_ratio(distribution.log_prob(batch.action), batch.log_prob)
    return ratio, batch.distribution.kl(distribution), distribution.entropy(), value


def surrogate_advantage(parts: Parts, advantage: Array) -> Array:
    """The advantages of a minibatch as they enter the surrogate; the value targets never are normalised."""
    return normalize_advantages(advantage) if parts.config.normalize_advantages else advantage


def loss(params: Any, parts: Parts, batch: Batch, h: Hyperparams) -> tuple[Array, Array]:
    """The loss (13) of (a part of) a minibatch, and what it was made of."""
    ratio, kl, entropy, value = evaluate_actions(parts, params, batch)
    surrogate = parts.objective(ratio, batch.advantage, kl, h)
    errors = value_loss(value, batch.target, batch.value, h.vf_clip_eps)
    total = total_loss(surrogate, errors, entropy, h.vf_coef, h.ent_coef)
    return total, report(surrogate, errors, entropy, kl, ratio, h.clip_eps)


def optimize(parts: Parts, state: TrainState, batch: Batch, batch_of: Callable, h: Hyperparams, key: Array) -> Any:
    """K epochs over random minibatches -> (params, opt_state, steps). From KL > κ on nothing moves (1.10)."""
    config, devices, (length, size) = parts.config, parts.cut.num_devices, batch.value.shape
    split = (config.num_minibatches, num_microbatches(size // config.num_minibatches, length, parts.cut), -1)
    start, unravel = ravel_pytree(state.params)

    def minibatch_step(data: Any, take: Callable, carry: tuple, minibatch: tuple) -> tuple[tuple, tuple]:
        params, opt_state, stopped = carry

        def part_loss(params: Any, data: Any, index: Array, advantage: Array) -> tuple[Array, Array]:
            return loss(params, parts, take(data, index)._replace(advantage=advantage), h)

        grads, reports = mean_gradient(part_loss, unravel(params), data, minibatch, parts.cut)
        step = merge_stats(reports, optax.tree.norm(grads))
        stopped = should_stop(stopped, step[REPORT.index("kl")], h.target_kl)
        carry = tree_where(stopped, (params, opt_state), apply_gradients(h, grads, opt_state, params))
        return (*carry, stopped), (step, ~stopped)

    def epoch(carry: tuple, key: Array) -> tuple[tuple, tuple]:
        data = batch_of(unravel(carry[0])) if config.recompute_advantages else batch
        index = to_device_layout(parts.shuffle(key, size), config.num_envs, devices).reshape(
            split
        )  # [minibatches, P, columns]
        advantage = replicate(data.advantage, devices).at[:, index].get(mode="promise_in_bounds")
        minibatches = index, jax.vmap(partial(surrogate_advantage, parts))(jnp.moveaxis(advantage, 0, 2))
        return jax.lax.scan(partial(minibatch_step, *pack(data, devices)), carry, replicate(minibatches, devices))

    carry = (start, state.opt_state, jnp.bool_(False))
    (params, opt_state, _), steps = jax.lax.scan(epoch, carry, jax.random.split(key, config.num_epochs))
    return unravel(params), opt_state, steps
