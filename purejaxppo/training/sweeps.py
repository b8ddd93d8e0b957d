"""Train many seeds and hyperparameter settings as one program."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo import ppo
from purejaxppo._util.aliases import KeysLike, PyTree
from purejaxppo.config.checks import ignored_settings
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Hyperparams
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS
from purejaxppo.hooks import no_metrics
from purejaxppo.metrics import Metrics
from purejaxppo.optimizer import vector_optimizer
from purejaxppo.training.arguments import as_keys, as_traced, check_algorithm
from purejaxppo.training.env_params import params_of_settings
from purejaxppo.training.health import is_traced
from purejaxppo.training.loop import call_update, checked_length
from purejaxppo.training.many_runs import (
    SplitHyperparams,
    map_runs,
    partition_runs,
    split_hyperparams,
    unflatten_runs,
    warn_of_failed_runs,
)
from purejaxppo.types import Algorithm, Init, TrainState, Update


def sweep(
    algo: Algorithm,
    keys: KeysLike,
    hyperparams: Hyperparams | None = None,
    num_updates: int | None = None,
    *,
    env_params: PyTree = None,
) -> tuple[TrainState, Metrics]:
    """Train every hyperparameter setting with every seed, as one program.

    The program is compiled once for all values of the same shapes. The runs are divided among all local devices, or
    among the largest number of devices that divides the number of runs; if `Config.num_devices` is above 1, the devices
    share each run instead.

    All settings use the same keys, but settings are not paired by this: after the first update the runs of one seed
    differ in everything, so compare settings as independent samples.

    A run whose losses, parameters or environment become NaN or Inf does not affect the other runs: they return exactly
    what they return without it. A warning names the failed runs, and `failed_runs(metrics)` marks them.

    Args:
        algo: of `make_ppo`; its `update` may be replaced.
        keys: one key per seed, typed [S] or raw [S, 2], or a list of keys or of integer seeds.
        hyperparams: each field a scalar or an array [H]; the arrays vary together (zip, not product).
        num_updates: by default as many as `config.total_timesteps` holds.
        env_params: parameters of the environment; each leaf as in `set_env_params`, or with a leading axis [H] along
            the settings. The defaults if not given.

    Returns:
        States with leaves [H, S, ...] and metrics with leaves [H, S, num_updates]; H is 1 if nothing varies.

    Raises:
        TypeError, ValueError, ConfigError: as `train`.
        ValueError: arrays of several lengths or axes.
        ConfigError: a hyperparameter varies that the config does not use, so that all results would be equal.
    """
    check_algorithm(algo, "sweep")
    keys = as_keys(keys, "sweep")
    h = as_traced(hyperparams)
    env_params, num_levels = (None, 1) if env_params is None else params_of_settings(algo, env_params)
    shape = (_num_settings(h, num_levels), len(keys))
    check_axes(algo, h)
    length = checked_length(algo, h, 0, num_updates)
    if num_levels > 1:
        env_params = jax.tree.map(lambda x: jnp.repeat(x, len(keys), axis=0), env_params)
    if shape[0] == 1:
        h = Hyperparams(*(jnp.reshape(x, ()) for x in h))
    varied, shared = split_hyperparams(h, shape, "sweep")
    run_keys = keys if shape[0] == 1 else jnp.broadcast_to(keys, shape).reshape(-1)
    num_devices, at_once = partition_runs(algo.config, shape[0] * shape[1])
    execution = (shape, num_devices, at_once)
    levels = (env_params, None) if num_levels > 1 else (None, env_params)
    states, metrics = _train_runs(algo.init, algo.update, length, *execution, run_keys, (varied, shared), levels)
    if not is_traced(metrics):
        warn_of_failed_runs(algo.env.name, metrics, np.zeros(shape, bool))
    return states, metrics


def check_axes(algo: Algorithm, h: Hyperparams) -> None:
    """Raise ConfigError if a hyperparameter varies that cannot change a result, such as `beta` without a KL penalty.

    If functions of the user read the hyperparameters, nothing is known and nothing is refused.
    """
    varied = [name for name, x in h._asdict().items() if x.size > 1]
    if not varied or reads_all_hyperparams(algo):
        return
    components = algo.components
    objective = "none" if algo.config.policy_step == "trpo" else algo.config.objective
    own = [] if components.objective is OBJECTIVES[objective] else ["objective"]
    own += [] if components.target_fn is TARGETS[algo.config.targets] else ["target_fn"]
    ignored = ignored_settings(algo.config, own=own)
    keys = [f"hyperparams.{name}" for name in varied if f"hyperparams.{name}" in ignored]
    if keys:
        problems = [
            Problem(key, f": all its values give the same result; it {ignored[key]}", "conflict") for key in keys
        ]
        raise ConfigError(problems)


def reads_all_hyperparams(algo: Algorithm) -> bool:
    """Return whether functions handed to `make_ppo`, or an own `update`, may read any hyperparameter."""
    own_update = not isinstance(algo.update, partial) or algo.update.func is not ppo.update
    components = algo.components
    return (
        own_update
        or components.optimizer is not vector_optimizer()
        or components.has_auxiliary_loss
        or components.metrics_fn is not no_metrics
        or components.intrinsic is not None
    )


def _num_settings(h: Hyperparams, num_levels: int) -> int:
    """Return H, the length that all arrays of the hyperparameters, and of the environment's parameters, share."""
    shapes = {name: x.shape for name, x in h._asdict().items() if x.shape}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"hyperparameters must be scalars or vectors of one length H, not {shapes}")
    count = next(iter(shapes.values()), (num_levels,))[0]
    if num_levels not in (1, count):
        raise ValueError(f"env_params has {num_levels} settings, but the hyperparameters have {count}")
    return count


@partial(jax.jit, static_argnames=("init", "update", "num_updates", "shape", "num_devices", "at_once"))
def _train_runs(
    init: Init,
    update: Update,
    num_updates: int,
    shape: tuple[int, ...],
    num_devices: int,
    at_once: int,
    keys: Array,
    hyperparams: SplitHyperparams,
    env_params: tuple[PyTree, PyTree],
) -> tuple[TrainState, Metrics]:
    """Train one run for every key [R].

    Hyperparameters and parameters of the environment are pairs: those that vary, [R, ...], or those that are shared.
    The results have leaves [*shape, ...].
    """

    def run(one: tuple, shared: tuple) -> tuple[TrainState, Metrics]:
        key, varied, level = one
        h = varied or shared[0]
        level = shared[1] if level is None else level
        start = init(key, h) if level is None else init(key, h, level)
        return jax.lax.scan(lambda state, _: call_update(update, state, h), start, length=num_updates)

    runs, shared = zip(hyperparams, env_params, strict=True)
    return unflatten_runs(map_runs(run, num_devices, at_once, (keys, *runs), shared), shape)
