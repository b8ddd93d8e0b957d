"""The public function `doctor`: everything that is worth checking before a long run."""

from __future__ import annotations

import jax

from purejaxppo.config.schema import Config
from purejaxppo.envs.conformance import protocol_problems
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.networks.protocol import Network
from purejaxppo.training.doctor.check import NOT_RUN, Check, failed, not_seen, what_happened
from purejaxppo.training.doctor.environment import environment_checks, usable
from purejaxppo.training.doctor.learning import LATER, UPDATE, learning_checks

NUM_STEPS = 512
NUM_ENVS = 8


def doctor(
    env: Env | VecEnv, network: Network | None = None, config: Config | None = None, *, num_steps: int = NUM_STEPS
) -> list[Check]:
    """Check an environment and a network before a long run.

    The environment is played at random and two small updates are run. A fault is described in the advice of the check
    that finds it, errors of the environment's own code included; no exception is raised for it.

    Args:
        env: the environment.
        network: the actor-critic; None for the default one.
        config: settings of the algorithm; sizes are replaced by small ones.
        num_steps: steps of random play in each of 8 environments.

    Returns:
        Checks with `name`, `passed` (None: not seen, or not run) and `advice`.
    """
    with jax.debug_key_reuse(False):  # the checks that need it switch it on
        return _all_checks(env, network, config or Config(), num_steps)


def _all_checks(env: Env | VecEnv, network: Network | None, config: Config, num_steps: int) -> list[Check]:
    group = env.group_size if isinstance(env, VecEnv) else 1
    checks = environment_checks(env, num_steps, group * -(-NUM_ENVS // group))
    rest = [not_seen(name, NOT_RUN) for name in (UPDATE, *LATER)]
    if not checks[0].passed:
        return checks + rest
    env = usable(env, protocol_problems(env))
    if network is None:
        try:
            network = make_network(env)
        except Exception as error:
            return [*checks, failed(UPDATE, what_happened(error)), *rest[1:]]
    return checks + learning_checks(env, network, config)
