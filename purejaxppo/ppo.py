"""Proximal Policy Optimization, one iteration, in the order of the algorithm.

`update` is the iteration; every step of it is a function below, in the order of the calls. Numbers such as (7) refer to
docs/derivation.md. Axes: T time, N environments; L steps of a training sequence (1 for feed-forward networks) and
M = T * N / L sequences. `ppo` holds the arguments of `make_ppo`; `h` holds the hyperparameters, which are traced.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from purejaxppo import metrics, optimizer
from purejaxppo._util import trees
from purejaxppo.batching import plan
from purejaxppo.config.schema import Hyperparams
from purejaxppo.envs import families
from purejaxppo.functional import (
    advantages,
    bindings,
    diagnostics,
    episode_stats,
    kl_control,
    objectives,
    running_stats,
)
from purejaxppo.types import (
    Batch,
    Components,
    Observation,
    Params,
    PRNGKey,
    PyTree,
    RnnState,
    TrainState,
    Transition,
)

MAX_UPDATES = 2**31 - 1  # the largest int32; the count stays there instead of wrapping


def init(ppo: Components, key: PRNGKey, h: Hyperparams, env_params: PyTree = None) -> TrainState:
    """Return the state before the first iteration, with the environment's parameters or those given."""
    num_envs = ppo.config.num_envs
    param_key, env_key, key = jax.random.split(key, 3)
    params = ppo.network.init(param_key)
    env_params = families.first_params(ppo.env, num_envs, env_params)
    env_state, obs = families.at_params(ppo.env, env_params).reset(env_key, num_envs)
    state = TrainState(
        params=params,
        opt_state=ppo.optimizer.init(h, params),
        env_state=env_state,
        obs=obs,
        rnn_state=ppo.network.initial_rnn_state(num_envs),
        is_first=jnp.ones(num_envs, bool),
        obs_moments=running_stats.init_moments(trees.drop_time_axis(obs)),
        reward_scaler=running_stats.init_reward_scaler(num_envs),
        control=bindings.init_control(h),
        last_residual=jnp.float32(0.0),
        episodes=episode_stats.init_episode_stats(num_envs),
        key=key,
        num_updates=jnp.int32(0),
        skipped_updates=jnp.float32(0.0),
        env_params=env_params,
    )
    if ppo.intrinsic:
        intrinsic_key = jax.random.fold_in(jax.random.clone(param_key), 1)
        state = state._replace(intrinsic=ppo.intrinsic.init(intrinsic_key, obs))
    return ppo.plan.place(trees.strong_dtypes(state))


def update(ppo: Components, state: TrainState, h: Hyperparams) -> tuple[TrainState, metrics.Metrics]:
    """Run one iteration (1.11) and return the next state and the metrics of the iteration."""
    key, rollout_key, epoch_key = jax.random.split(state.key, 3)
    h = anneal(ppo, state, h)
    state, rollout = collect_rollout(ppo, state, rollout_key)
    faults = metrics.rollout_faults(rollout, ppo.env.action_space)  # of the rewards before they are scaled and clipped
    state, rollout, finished, extra = process_rewards(ppo, state, rollout, h)
    batch = compute_targets(ppo, state.params, state, rollout, h)
    params, opt_state, steps = optimize(ppo, state, rollout, batch, h, epoch_key)
    params, steps = trpo_update(ppo, params, batch, h, steps)
    extra |= ppo.metrics_fn(state, rollout, batch, h)
    summary, residual = compute_metrics(ppo, params, state, rollout, batch, steps, finished, faults, extra, h)
    state = update_statistics(ppo, state, rollout, summary, h)
    state = state._replace(params=params, opt_state=opt_state, last_residual=residual, key=key)
    return ppo.plan.place(state), summary


def anneal(ppo: Components, state: TrainState, h: Hyperparams) -> Hyperparams:
    """Return the hyperparameters of this iteration: KL-driven controls applied, step sizes annealed linearly."""
    progress = state.num_updates.astype(jnp.float32) / max(ppo.config.num_updates, 1)
    remaining = jnp.maximum(1.0 - h.lr_anneal * progress, 0.0)
    h = bindings.apply_control(state.control, h)
    return h._replace(learning_rate=h.learning_rate * remaining, trpo_delta=h.trpo_delta * remaining)


# Rollout -------------------------------------------------------------------------------------------------------------


def collect_rollout(ppo: Components, state: TrainState, key: PRNGKey) -> tuple[TrainState, Transition]:
    """Act with π_old for T steps in N environments.

    All random numbers are drawn before the scan, because one large draw is faster than T small ones.
    """
    num_steps = ppo.config.num_steps
    env = families.at_params(ppo.env, state.env_params)
    env_key, action_key = jax.random.split(key)

    def policy(rnn_state: RnnState, obs: Observation, is_first: Array) -> tuple:
        inputs = trees.add_time_axis((observe(ppo, state, obs), is_first))
        rnn_state, distribution, _ = ppo.network.apply(state.params, rnn_state, *inputs)
        return rnn_state, trees.drop_time_axis(distribution)

    def step(carry: tuple, noise: tuple) -> tuple[tuple, Transition]:
        env_state, obs, rnn_state, is_first = carry
        env_noise, action_noise = noise
        next_rnn_state, distribution = policy(rnn_state, obs, is_first)
        action = distribution.sample_from(action_noise)
        env_state, ts = env.step(env_noise, env_state, distribution.to_env(action))
        outcome = (ts.reward, ts.terminated, ts.truncated, ts.final_obs)
        transition = Transition(obs, action, *outcome, distribution, rnn_state, is_first, ts.quarantined, ts.info)
        return (env_state, ts.obs, next_rnn_state, ts.terminated | ts.truncated), transition

    _, distribution = jax.eval_shape(policy, state.rnn_state, state.obs, state.is_first)
    noise = (env.noise(env_key, num_steps, ppo.config.num_envs), distribution.noise(action_key, (num_steps,)))
    carry = (state.env_state, state.obs, state.rnn_state, state.is_first)
    (env_state, obs, rnn_state, is_first), rollout = ppo.plan.scan_steps(step, carry, noise, state.obs)
    return state._replace(env_state=env_state, obs=obs, rnn_state=rnn_state, is_first=is_first), rollout


def observe(ppo: Components, state: TrainState, obs: Observation) -> Observation:
    """Return the observation as the network sees it, normalized if the config says so.

    The statistics change only at the end of an iteration. Therefore the first minibatch has the inputs of
    the rollout, and its ratio (4) is 1.
    """
    return running_stats.normalize(state.obs_moments, obs, only=ppo.normalized)


# Rewards and targets -------------------------------------------------------------------------------------------------


def process_rewards(
    ppo: Components, state: TrainState, rollout: Transition, h: Hyperparams
) -> tuple[TrainState, Transition, episode_stats.EpisodeSummary, dict[str, Array]]:
    """Sum up the returns of episodes, scale the rewards if the config says so, and add the intrinsic reward."""
    done = rollout.terminated | rollout.truncated
    episodes, finished = episode_stats.summarize_episodes(state.episodes, rollout.reward, done, rollout.quarantined)
    state = state._replace(episodes=episodes)
    if ppo.config.scale_rewards:
        scaler, rewards = running_stats.scale_rewards(state.reward_scaler, rollout.reward, done, h.gamma, h.reward_clip)
        state = state._replace(reward_scaler=scaler)
        rollout = rollout._replace(reward=rewards)
    extra = episode_stats.mean_info(rollout.info, done, rollout.quarantined)
    if ppo.intrinsic:
        intrinsic, bonus, more = ppo.intrinsic.apply(state.intrinsic, rollout, h)
        extra |= more
        state = state._replace(intrinsic=intrinsic)
        rollout = rollout._replace(reward=rollout.reward + bonus)
    return state, rollout, finished, extra


def compute_targets(ppo: Components, params: Params, state: TrainState, rollout: Transition, h: Hyperparams) -> Batch:
    """Return the training data of a rollout: advantages and value targets (9)(10), divided into sequences."""
    values, next_values = state_values(ppo, params, state, rollout)
    rewards, terminated, truncated = rollout.reward, rollout.terminated, rollout.truncated
    excluded = rollout.quarantined
    if ppo.config.truncation == "mask":
        excluded = truncated & ~terminated  # quarantined steps are among them
    if not isinstance(excluded, tuple):  # terminated, with δ_t = 0, and without effect on the policy
        rewards = jnp.where(excluded, values, rewards)
        terminated = terminated | excluded
    if ppo.config.truncation != "bootstrap":
        terminated = terminated | truncated
        truncated = jnp.zeros_like(truncated)
    advantage, target = ppo.target_fn(rewards, values, next_values, terminated, truncated, h, ppo.config.n_step)
    batch = Batch(
        obs=observe(ppo, state, rollout.obs),
        is_first=rollout.is_first,
        rnn_state=rollout.rnn_state,
        action=rollout.action,
        distribution=rollout.distribution,
        log_prob=rollout.distribution.log_prob(rollout.action),
        value=values,
        advantage=advantage,
        target=target,
        excluded=excluded,
        next_obs=observe(ppo, state, rollout.final_obs) if ppo.has_auxiliary_loss else (),
        quarantined=rollout.quarantined,
    )
    return ppo.plan.to_sequences(batch)


def state_values(ppo: Components, params: Params, state: TrainState, rollout: Transition) -> tuple[Array, Array]:
    """Return V(s_t) and V(s'_t), [T, N] each, where s'_t is the state after step t, before any reset.

    Args:
        ppo: the components.
        params: parameters of the value function.
        state: the state after the rollout.
        rollout: leaves [T, N, ...].
    """

    def value(rnn_state: RnnState, obs: Observation, is_first: Array) -> Array:
        return ppo.network.apply(params, rnn_state, observe(ppo, state, obs), is_first)[2]

    def final_value(t: Array) -> Array:
        """V(s'_t) for one step t of each environment, [N] -> [N]."""
        at = ppo.plan.steps_at(rollout, t)
        # The network reads s_t, then s'_t, from the recurrent state before the step and without a reset between them.
        obs = jax.tree.map(lambda a, b: jnp.stack([a, b]), at.obs, at.final_obs)
        is_first = jnp.stack([at.is_first, jnp.zeros_like(at.is_first)])
        return value(at.rnn_state, obs, is_first)[1]

    start = trees.add_time_axis(trees.drop_time_axis(rollout.rnn_state))
    inputs = (start, rollout.obs, rollout.is_first)
    values = ppo.plan.map(lambda x: value(trees.drop_time_axis(x[0]), *x[1:]), inputs)
    last = value(state.rnn_state, *trees.add_time_axis((state.obs, state.is_first)))
    truncated_only = rollout.truncated & ~rollout.terminated
    return values, advantages.next_state_values(values, last, truncated_only, final_value)


# Optimization --------------------------------------------------------------------------------------------------------


def optimize(
    ppo: Components, state: TrainState, rollout: Transition, batch: Batch, h: Hyperparams, key: PRNGKey
) -> tuple[Params, optax.OptState, metrics.Steps]:
    """Run K epochs over random minibatches.

    Once the KL divergence of a minibatch exceeds target_kl, no later minibatch changes the parameters (1.10). A step
    with a NaN or infinite loss or gradient is skipped. If a parameter or a number of the optimizer state is NaN or
    infinite after all steps, none of them counts; a check after each step would be slow.
    """
    if ppo.config.policy_step == "trpo":  # the epochs fit only the value function
        h = h._replace(ent_coef=jnp.zeros_like(h.ent_coef))
    start, unravel = ravel_pytree(state.params)

    def minibatch_step(carry: tuple, minibatch: plan.Minibatch) -> tuple[tuple, tuple]:
        params, opt_state, stopped = carry
        gradient, aux = ppo.plan.mean_gradient(partial(loss, ppo, h), unravel(params), minibatch)
        stats = metrics.merge_stats(aux, *optimizer.global_norm(gradient))
        stopped = kl_control.should_stop(stopped, stats.kl, h.target_kl)
        moved = ppo.optimizer.step(h, gradient, opt_state, params, unravel)
        taken = ~stopped & metrics.is_finite_step(stats)
        params, opt_state = trees.tree_where(taken, moved, (params, opt_state))
        return (params, opt_state, stopped), metrics.Steps(jnp.stack(stats), taken, ~stopped & ~taken)

    def epoch(carry: tuple, key: PRNGKey) -> tuple[tuple, tuple]:
        data = batch
        if ppo.config.recompute_advantages:
            data = compute_targets(ppo, unravel(carry[0]), state, rollout, h)
        order = ppo.shuffle(key, ppo.plan.num_sequences)
        return ppo.plan.scan_minibatches(minibatch_step, carry, data, order, partial(surrogate_advantage, ppo))

    carry = (start, state.opt_state, jnp.bool_(False))
    (params, opt_state, _), steps = jax.lax.scan(epoch, carry, jax.random.split(key, ppo.config.num_epochs))
    finite = trees.stays_finite((params, opt_state), (start, state.opt_state))
    params, opt_state = trees.tree_where(finite, (params, opt_state), (start, state.opt_state))
    return unravel(params), opt_state, metrics.skip_all_unless(finite, metrics.Steps(*steps))


def surrogate_advantage(ppo: Components, advantage: Array, excluded: Array | tuple[()]) -> Array:
    """Return the advantages of a minibatch for the surrogate; value targets are never normalized."""
    if not ppo.config.normalize_advantages:
        return advantage
    return advantages.normalize_advantages(advantage, None if isinstance(excluded, tuple) else ~excluded)


def loss(ppo: Components, h: Hyperparams, params: Params, batch: Batch) -> tuple[Array, Array]:
    """Return the loss (13) of a minibatch or of some of its samples, and the statistics of `minibatch_stats`."""
    ratio, kl, entropy, value = evaluate_actions(ppo, params, batch)
    surrogate = ppo.objective(ratio, batch.advantage, kl, h)
    value_error = objectives.value_loss(value, batch.target, batch.value, h.vf_clip_eps)
    total = objectives.total_loss(surrogate, value_error, entropy, h.vf_coef, h.ent_coef)
    total += ppo.auxiliary_loss(params, batch, h)
    clipped = objectives.is_clipped(ratio, batch.advantage, *bindings.clip_range(h))
    return total, metrics.minibatch_stats(surrogate, value_error, entropy, kl, ratio, clipped)


def evaluate_actions(ppo: Components, params: Params, batch: Batch) -> tuple[Array, Array, Array, Array]:
    """Return ratio (4), KL(π_old(·|s) ‖ π_θ(·|s)), entropy (12) and V_φ(s) along sequences, [L, M] each."""
    rnn_state = ppo.plan.start_rnn_state(ppo.network.apply, params, batch)
    _, distribution, value = ppo.network.apply(params, rnn_state, batch.obs, batch.is_first)
    ratio = objectives.importance_ratio(distribution.log_prob(batch.action), batch.log_prob)
    kl, entropy = batch.distribution.kl(distribution), distribution.entropy()
    if not isinstance(batch.quarantined, tuple):  # constants for which the loss (13) of a sample is 0
        ratio = jnp.where(batch.quarantined, 1.0, ratio)
        kl = jnp.where(batch.quarantined, 0.0, kl)
        entropy = jnp.where(batch.quarantined, 0.0, entropy)
        value = jnp.where(batch.quarantined, batch.target, value)
    return ratio, kl, entropy, value


def trpo_update(
    ppo: Components, params: Params, batch: Batch, h: Hyperparams, steps: metrics.Steps
) -> tuple[Params, metrics.Steps]:
    """Move the policy by one trust-region step (6) if the config says so, unless the result is not finite."""
    if ppo.config.policy_step != "trpo":
        return params, steps
    advantage = surrogate_advantage(ppo, batch.advantage, batch.excluded)
    moved = bindings.natural_step(lambda params: evaluate_actions(ppo, params, batch), params, advantage, h)
    finite = trees.all_finite(moved)
    return trees.tree_where(finite, moved, params), metrics.add_step(steps, finite)


# Metrics and statistics ----------------------------------------------------------------------------------------------


def compute_metrics(
    ppo: Components,
    params: Params,
    state: TrainState,
    rollout: Transition,
    batch: Batch,
    steps: metrics.Steps,
    finished: episode_stats.EpisodeSummary,
    faults: dict[str, Array],
    extra: dict[str, Array],
    h: Hyperparams,
) -> tuple[metrics.Metrics, Array]:
    """Return the metrics of the iteration, and the residual that the diagnostics of the next one need."""
    ratio, kl = ppo.plan.map(lambda samples: evaluate_actions(ppo, params, samples)[:2], batch)
    improvement = ()
    residual = state.last_residual
    if ppo.config.diagnostics:
        improvement, residual = diagnose(ppo, params, state, rollout, batch, ratio, kl, h)
    whole = metrics.batch_metrics(batch, ratio, kl) | faults
    whole |= {"nonfinite_parameters": metrics.count_nonfinite(params)}
    whole |= metrics.skipped_metrics(steps, state.skipped_updates, ppo.config.max_skipped)
    return metrics.reduce_metrics(steps, h, finished, whole, improvement, extra), residual


def diagnose(
    ppo: Components,
    params: Params,
    state: TrainState,
    rollout: Transition,
    batch: Batch,
    ratio: Array,
    kl: Array,
    h: Hyperparams,
) -> tuple[diagnostics.Diagnostics, Array]:
    """Compare the predicted with the realized improvement of the policy; the latter is 0 in the first iteration."""
    before = diagnostics.mean_residual(rollout, *state_values(ppo, state.params, state, rollout), h.gamma)
    after = diagnostics.mean_residual(rollout, *state_values(ppo, params, state, rollout), h.gamma)
    realized = jnp.where(state.num_updates == 0, 0.0, before - state.last_residual)
    return diagnostics.improvement(ratio, kl, batch.advantage, realized, h.gamma), after


def update_statistics(
    ppo: Components, state: TrainState, rollout: Transition, summary: metrics.Metrics, h: Hyperparams
) -> TrainState:
    """Update the observation statistics, the KL-driven controls and the counters for the next iteration.

    The KL divergence of an iteration in which every step was skipped is 0 and says nothing, so the controls stay.
    """
    moments = state.obs_moments
    if ppo.config.normalize_observations:
        moments = running_stats.update_moments(moments, rollout.obs)
    control = bindings.update_control(state.control, summary.kl, h)
    control = trees.tree_where(summary.skipped_updates > 0.0, state.control, control)
    num_updates = jnp.minimum(state.num_updates, MAX_UPDATES - 1) + 1
    counters = {"num_updates": num_updates, "skipped_updates": summary.skipped_updates}
    return state._replace(obs_moments=moments, control=control, **counters)
