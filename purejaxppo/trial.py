"""Try the functions that a user hands to `make_ppo` on a short rollout, so that a NaN is found before a run."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo import hooks
from purejaxppo._util import trees
from purejaxppo._util.aliases import Params, PRNGKey
from purejaxppo._util.programs import jit_once
from purejaxppo.batching.plan import make_plan
from purejaxppo.config.schema import Hyperparams, sample_hyperparams
from purejaxppo.envs.protocol import describe
from purejaxppo.ppo import collect_rollout, compute_targets, init
from purejaxppo.types import Algorithm, Components

TRIAL_STEPS = 8
TRIAL_ENVS = 4


def try_hooks(algo: Algorithm) -> None:
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
    cases = list(zip(sample_hyperparams(), (np.bool_(False), np.bool_(True)), strict=True))
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
    config = dataclasses.replace(
        algo.config,
        num_envs=num_envs,
        num_steps=TRIAL_STEPS,
        num_epochs=1,
        num_minibatches=1,
        num_devices=1,
        sequence_length=0,
        burn_in=0,
        microbatch_size=0,
    )
    plan = make_plan(config, algo.components.plan.length > 1, algo.components.plan.per_env)
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
