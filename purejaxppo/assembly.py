"""Assemble the algorithm: resolve names, check the arguments of `make_ppo`, and plan the execution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo import hooks
from purejaxppo._util import trees
from purejaxppo._util.aliases import Params, PRNGKey
from purejaxppo._util.programs import is_tracing, jit_once
from purejaxppo.batching.plan import Plan, make_plan
from purejaxppo.batching.shuffles import SHUFFLES, Shuffle
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import Env, VecEnv, describe
from purejaxppo.envs.spaces import normalized_leaves
from purejaxppo.envs.wrappers.actions import clip_action
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS, Objective, TargetFn
from purejaxppo.networks.protocol import Network, check_fit
from purejaxppo.optimizer import MakeOptimizer, make_optimizer
from purejaxppo.ppo import collect_rollout, compute_targets, init, update
from purejaxppo.types import PER_ENV_FIELDS, Algorithm, Components


def make_ppo(
    env: Env | VecEnv,
    network: Network,
    config: Config | None = None,
    *,
    objective: Objective | None = None,
    target_fn: TargetFn | None = None,
    shuffle: Shuffle | None = None,
    optimizer: MakeOptimizer | None = None,
    auxiliary_loss: hooks.AuxiliaryLoss | None = None,
    intrinsic: hooks.IntrinsicReward | None = None,
    metrics_fn: hooks.MetricsFn | None = None,
) -> Algorithm:
    """Make the PPO algorithm for an environment and a network.

    Continuous actions are clipped to the bounds of the environment after their log-probability is taken.

    Args:
        env: an Env, which never resets itself, or a VecEnv, a batch that does.
        network: the actor-critic.
        config: static settings.
        objective: replaces `config.objective`: (ratio, advantage, kl, hyperparams) -> surrogate, arrays [L, C].
        target_fn: replaces `config.targets`: (rewards, values, next_values, terminated, truncated, hyperparams, n_step)
            -> (advantages, value targets), arrays [T, N]. `next_values` are those of the states before a reset.
        shuffle: replaces `config.shuffle`: (key, size) -> permutation of 0..size-1, int32 [size].
        optimizer: replaces Adam: (hyperparams) -> optax.GradientTransformation on the parameter tree. The
            hyperparameters are traced and those of the iteration, so that schedules and sweeps stay one program.
        auxiliary_loss: (params, batch [L, C, ...], hyperparams) -> float32 scalar that is added to the loss (13).
            `batch.next_obs` is the observation after each action.
        intrinsic: an added reward, IntrinsicReward(init, apply): (key, obs [N, ...]) -> state, and
            (state, rollout [T, N, ...], hyperparams) -> (state, reward [T, N], scalars by name).
        metrics_fn: (state, rollout [T, N, ...], batch [L, M, ...], hyperparams) -> scalars, for `Metrics.extra`.

    Raises:
        ConfigError: the config is invalid; lists every problem.
        ValueError: the environment, the network or a function handed in breaks its protocol or gives NaN; names it.
    """
    config = config or Config()
    recurrent = check_fit(env, network, config, objective)
    env = clip_action(env)
    vec = _auto_reset(env, config)
    plan = _make_plan(config, recurrent, vec, auxiliary_loss, intrinsic, metrics_fn)
    components = Components(
        env=vec,
        network=network,
        config=config,
        objective=hooks.check_objective(objective) if objective else _named_objective(config),
        target_fn=hooks.check_target_fn(target_fn) if target_fn else TARGETS[config.targets],
        shuffle=hooks.check_shuffle(shuffle, plan.num_sequences) if shuffle else SHUFFLES[config.shuffle],
        normalized=normalized_leaves(env.observation_space, config.normalize_observations),
        optimizer=make_optimizer(optimizer, jax.eval_shape(network.init, jax.random.key(0))),
        auxiliary_loss=hooks.check_auxiliary_loss(auxiliary_loss) if auxiliary_loss else hooks.no_auxiliary_loss,
        intrinsic=hooks.check_intrinsic(intrinsic) if intrinsic else None,
        metrics_fn=hooks.check_metrics_fn(metrics_fn) if metrics_fn else hooks.no_metrics,
        plan=plan,
    )
    algo = Algorithm(partial(init, components), partial(update, components), env, network, config, components)
    if any((objective, target_fn, shuffle, auxiliary_loss, intrinsic, metrics_fn)):
        _trace_update(algo)
    return algo


def _make_plan(config: Config, recurrent: bool, env: VecEnv, *readers: Callable | hooks.IntrinsicReward | None) -> Plan:
    """Return the plan of a run, in which the functions of the user (`readers`) see all final observations."""
    return make_plan(config, recurrent, _per_env_fields(env), 1 if any(readers) else env.truncation_gap)


def _named_objective(config: Config) -> Objective:
    return OBJECTIVES["none" if config.policy_step == "trpo" else config.objective]


def _per_env_fields(env: Env | VecEnv) -> tuple[str, ...]:
    """Return the fields of the train state with a leading axis N."""
    return (*PER_ENV_FIELDS, "env_params") if env.per_column else PER_ENV_FIELDS


def _auto_reset(env: Env | VecEnv, config: Config) -> VecEnv:
    """Return the batch of environments that the settings ask for.

    Raises:
        ConfigError: it is to quarantine columns, but it resets itself and does not.
    """
    quarantine = config.on_nonfinite == "quarantine"
    sizes = {"pool_size": config.pool_size, "refresh": config.pool_refresh, "stagger": config.stagger}
    vec = auto_reset(env, config.resets, **sizes, quarantine=quarantine)
    if quarantine and not vec.quarantines:
        text = (
            ' = "quarantine": a VecEnv resets itself; make it with auto_reset or fold_agents(..., quarantine=True), or '
            'set the nearest valid value: "halt"'
        )
        raise ConfigError([Problem("config.on_nonfinite", text, "conflict")])
    return vec


def _trace_update(algo: Algorithm) -> None:
    """Trace an update without compiling it, so that the checks of the hooks raise their errors now; then try them."""
    h = hooks.abstract_hyperparams()
    state = jax.eval_shape(algo.init, jax.random.key(0), h)
    jax.eval_shape(algo.update, state, h)
    if not is_tracing():
        _try_hooks(algo)


TRIAL_STEPS = 8
TRIAL_ENVS = 4


def _try_hooks(algo: Algorithm) -> None:
    """Evaluate the hooks that see samples on a short rollout, so that a NaN is an error now.

    A hook is tried with two settings of the hyperparameters, and with and without ends of episodes, because it may
    rely on one or the other. Nothing is tried on a host environment, while tracing, or if the hook only works with
    the sizes of the config.

    Raises:
        ValueError: a result is not finite in both cases; names the hook.
    """
    ppo = algo.components
    if (ppo.auxiliary_loss, ppo.intrinsic, ppo.metrics_fn) == (hooks.no_auxiliary_loss, None, hooks.no_metrics):
        return
    trial = jit_once(partial(_trial, _with_trial_sizes(algo)))
    cases = list(zip(hooks.sample_hyperparams(), (np.bool_(False), np.bool_(True)), strict=True))
    with jax.debug_nans(False), jax.debug_infs(False):
        try:
            if trial.trace(jax.random.key(0), *cases[0]).jaxpr.effects:
                return
            results = [jax.device_get(trial(jax.random.key(i), *case)) for i, case in enumerate(cases)]
        except Exception:  # it fits the sizes of the config, as `_trace_update` has shown, and no others
            return
    for name, (first, second) in jax.tree.map(lambda *flags: flags, *results).items():
        if not first and not second:
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity on a rollout of {describe(algo.env)}"
            )


def _with_trial_sizes(algo: Algorithm) -> Components:
    """Return the components with a rollout of a few steps of a few environments."""
    group = algo.components.env.group_size
    num_envs = group * -(-TRIAL_ENVS // group)
    ones = {"num_minibatches": 1, "num_epochs": 1, "num_devices": 1}
    sizes = {"num_envs": num_envs, "num_steps": TRIAL_STEPS, "sequence_length": 0, "burn_in": 0, "microbatch_size": 0}
    config = dataclasses.replace(algo.config, **ones, **sizes)
    plan = make_plan(config, algo.components.plan.length > 1, _per_env_fields(algo.env))
    params = _trial_params(jax.eval_shape(algo.network.init, jax.random.key(0)))
    network = algo.network._replace(init=lambda key: params)  # initializers take as long to compile as the rest
    return algo.components._replace(config=config, plan=plan, network=network)


def _trial_params(shapes: Params) -> Params:
    """Return random matrices with outputs of the size of their inputs, and positive numbers otherwise."""
    rng = np.random.default_rng(0)

    def draw(x: jax.ShapeDtypeStruct) -> Array:
        numbers = rng.standard_normal(x.shape)
        numbers = numbers * math.prod(x.shape[:-1]) ** -0.5 if len(x.shape) > 1 else 0.1 * np.abs(numbers)
        return jnp.asarray(numbers, x.dtype)

    return jax.tree.map(draw, shapes)


def _trial(ppo: Components, key: PRNGKey, h: Hyperparams, ends: Array) -> dict[str, Array]:
    """Return for each hook whether its results on a short rollout are finite; true if the rollout is not.

    Args:
        ppo: the components.
        key: of the initialization and the rollout.
        h: the hyperparameters.
        ends: whether every second step ends the episodes, bool [].
    """
    init_key, rollout_key = jax.random.split(key)
    state, rollout = collect_rollout(ppo, init(ppo, init_key, h), rollout_key)
    odd = jnp.arange(TRIAL_STEPS)[:, None] % 2 == 1
    rollout = rollout._replace(terminated=rollout.terminated | (ends & odd))
    batch = compute_targets(ppo, state.params, state, rollout, h)
    unusable = ~trees.all_finite((rollout.reward, batch.obs, batch.log_prob, batch.value, batch.target))
    sound = {}
    if ppo.intrinsic:
        intrinsic, bonus, report = ppo.intrinsic.apply(state.intrinsic, rollout, h)
        sound["intrinsic (its reward)"] = trees.all_finite(bonus)
        sound["intrinsic (its state)"] = ~trees.any_nan((state.intrinsic, intrinsic))
        sound["intrinsic (its metrics)"] = ~trees.any_nan(report)
    if ppo.has_auxiliary_loss:
        value, gradient = jax.value_and_grad(ppo.auxiliary_loss)(state.params, batch, h)
        sound["auxiliary_loss"] = trees.all_finite(value)
        sound["auxiliary_loss (its gradient)"] = trees.all_finite(gradient)
    if ppo.metrics_fn is not hooks.no_metrics:
        sound["metrics_fn"] = ~trees.any_nan(ppo.metrics_fn(state, rollout, batch, h))
    return {name: unusable | flag for name, flag in sound.items()}
