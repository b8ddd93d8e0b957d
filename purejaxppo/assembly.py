"""Assemble the algorithm: resolve names, check the arguments of `make_ppo`, and plan the execution."""

from __future__ import annotations

from functools import partial

import jax

from purejaxppo import hooks
from purejaxppo._util.programs import is_tracing
from purejaxppo.batching.plan import Plan, make_plan
from purejaxppo.batching.shuffles import SHUFFLES, Shuffle
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Config
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.envs.spaces import normalized_leaves
from purejaxppo.envs.wrappers.actions import clip_action
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS, Objective, TargetFn
from purejaxppo.networks.protocol import Network, check_fit
from purejaxppo.optimizer import MakeOptimizer, make_optimizer
from purejaxppo.ppo import init, update
from purejaxppo.trial import try_hooks
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
    plan = _make_plan(config, recurrent, vec, any((auxiliary_loss, intrinsic, metrics_fn)))
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


def is_assembled(algo: Algorithm) -> bool:
    """Return whether an algorithm has the `init` and `update` of `make_ppo`; a user may replace them."""
    pairs = ((algo.init, init), (algo.update, update))
    return all(isinstance(given, partial) and given.func is function for given, function in pairs)


def with_config(algo: Algorithm, config: Config) -> Algorithm:
    """Return an algorithm of `make_ppo` with other settings; what was handed to `make_ppo` stays.

    Args:
        algo: of `make_ppo`.
        config: the settings. Where functions replaced a setting, they go on to do so.

    Raises:
        ConfigError: the settings are invalid; lists every problem.
    """
    old = algo.components
    recurrent = check_fit(algo.env, algo.network, config)
    vec = _auto_reset(algo.env, config)
    readers = (old.has_auxiliary_loss, old.intrinsic is not None, old.metrics_fn is not hooks.no_metrics)
    components = old._replace(
        env=vec,
        config=config,
        objective=_named_objective(config) if old.objective is _named_objective(old.config) else old.objective,
        target_fn=TARGETS[config.targets] if old.target_fn is TARGETS[old.config.targets] else old.target_fn,
        shuffle=SHUFFLES[config.shuffle] if old.shuffle is SHUFFLES[old.config.shuffle] else old.shuffle,
        normalized=normalized_leaves(algo.env.observation_space, config.normalize_observations),
        plan=_make_plan(config, recurrent, vec, any(readers)),
    )
    return Algorithm(partial(init, components), partial(update, components), algo.env, algo.network, config, components)


def _make_plan(config: Config, recurrent: bool, env: VecEnv, has_readers: bool) -> Plan:
    """Return the plan of a run, in which functions of the user that read rollouts see all final observations."""
    gap = 1 if has_readers else env.truncation_gap
    return make_plan(config, recurrent, _per_env_fields(env), gap, env.group_size)


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
    vec = auto_reset(
        env,
        config.resets,
        pool_size=config.pool_size,
        refresh=config.pool_refresh,
        stagger=config.stagger,
        quarantine=quarantine,
    )
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
        try_hooks(algo)
