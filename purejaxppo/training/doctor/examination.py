"""The public function `doctor`: everything that is worth checking before a long run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from purejaxppo.assembly import make_ppo
from purejaxppo.config.schema import Config
from purejaxppo.envs.conformance import protocol_problems
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.functional.bindings import Objective, TargetFn
from purejaxppo.hooks import AuxiliaryLoss, IntrinsicReward, MetricsFn
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.networks.protocol import Network
from purejaxppo.optimizer import MakeOptimizer
from purejaxppo.training.doctor.check import NOT_RUN, Check, not_seen
from purejaxppo.training.doctor.environment import environment_checks, usable
from purejaxppo.training.doctor.learning import LATER, UPDATE, learning_checks, small_algorithm, small_config
from purejaxppo.types import Algorithm

NUM_STEPS = 512
NUM_ENVS = 8


def doctor(
    env: Env | VecEnv | Algorithm,
    network: Network | None = None,
    config: Config | None = None,
    *,
    num_steps: int = NUM_STEPS,
    objective: Objective | None = None,
    target_fn: TargetFn | None = None,
    optimizer: MakeOptimizer | None = None,
    auxiliary_loss: AuxiliaryLoss | None = None,
    intrinsic: IntrinsicReward | None = None,
    metrics_fn: MetricsFn | None = None,
) -> list[Check]:
    """Check an environment, a network and the functions of a user before a long run.

    The environment is played at random and two small updates are run. A fault is described in the advice of the check
    that finds it, errors of the user's code included; no exception is raised for it.

    Args:
        env: the environment, or an Algorithm, which has everything else. If its `update` was replaced, the updates have
            the sizes of its config.
        network: the actor-critic; None for the default one.
        config: settings of the algorithm; sizes are replaced by small ones.
        num_steps: steps of random play in each of 8 environments.
        objective: as in `make_ppo`, like all arguments after it.
        target_fn: replaces the targets of the config.
        optimizer: replaces Adam.
        auxiliary_loss: is added to the loss.
        intrinsic: is added to the rewards.
        metrics_fn: gives metrics.

    Returns:
        Checks with `name`, `passed` (None: not seen, or not run) and `advice`.

    Raises:
        TypeError: other arguments beside an Algorithm.
    """
    functions = {
        "objective": objective,
        "target_fn": target_fn,
        "optimizer": optimizer,
        "auxiliary_loss": auxiliary_loss,
        "intrinsic": intrinsic,
        "metrics_fn": metrics_fn,
    }
    if isinstance(env, Algorithm):
        given = {"network": network, "config": config} | functions
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise TypeError(f"doctor: an Algorithm has everything that make_ppo took; leave out {', '.join(names)}")
    with jax.debug_key_reuse(False):  # the checks that need it switch it on
        if isinstance(env, Algorithm):
            return _all_checks(env.env, lambda _: small_algorithm(env), num_steps)
        make = partial(_make_small, network=network, config=config or Config(), functions=functions)
        return _all_checks(env, make, num_steps)


def _make_small(env: Env | VecEnv, network: Network | None, config: Config, functions: dict[str, Any]) -> Algorithm:
    """Return an algorithm with small sizes."""
    return make_ppo(env, make_network(env) if network is None else network, small_config(config, env), **functions)


def _all_checks(env: Env | VecEnv, make: Callable[[Env | VecEnv], Algorithm], num_steps: int) -> list[Check]:
    group = env.group_size if isinstance(env, VecEnv) else 1
    checks = environment_checks(env, num_steps, group * -(-NUM_ENVS // group))
    if not checks[0].passed:
        return checks + [not_seen(name, NOT_RUN) for name in (UPDATE, *LATER)]
    env = usable(env, protocol_problems(env))
    return checks + learning_checks(partial(make, env))
