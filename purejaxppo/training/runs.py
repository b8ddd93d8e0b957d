"""Build the algorithm of a run from its settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from purejaxppo.config.checks import check, ignored_changes, ignored_settings
from purejaxppo.config.errors import Problem
from purejaxppo.config.schema import Config, Run

if TYPE_CHECKING:
    from purejaxppo.envs.protocol import Env, VecEnv
    from purejaxppo.networks.protocol import Network
    from purejaxppo.types import Algorithm


def build(run: Run, problems: Iterable[Problem] = (), source: str = "") -> Algorithm:
    """Return the Algorithm of `run` after all checks. Nothing is compiled yet.

    Args:
        run: the settings.
        problems: problems that are already known; they are reported with the others.
        source: where the settings come from, for the message.

    Raises:
        ConfigError: with every problem at once, those of the environment and the network included.
    """
    from purejaxppo.assembly import make_ppo
    from purejaxppo.envs.registry import make
    from purejaxppo.networks.actor_critic import make_network

    problems = list(problems)
    env: Env | VecEnv | None = None
    network: Network | None = None
    known = {problem.key.partition(".")[0] for problem in problems}
    if "env" not in known and isinstance(run.env, str):
        try:
            env = make(run.env, **run.env_params)
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(Problem("env", f": {error}", "environment"))
    if env is not None and "network" not in known:
        try:
            network = make_network(env, run.network)
        except (ValueError, TypeError) as error:
            problems.append(Problem("network", f": {error}", "network"))
    problems += _device_problems(run.config)
    check(run, problems, source)
    assert env is not None, "otherwise `check` has raised"
    assert network is not None, "otherwise `check` has raised"
    return make_ppo(env, network, run.config)


def _device_problems(config: Config) -> list[Problem]:
    """Check that JAX sees as many devices as the settings ask for."""
    import jax

    if not isinstance(config.num_devices, int) or config.num_devices <= jax.local_device_count():
        return []
    text = f" = {config.num_devices}: JAX sees {jax.local_device_count()} ({jax.devices()[0].platform})"
    return [Problem("config.num_devices", f"{text}; nearest valid value: {jax.local_device_count()}", "range")]


def settings_without_effect(run: Run, algo: Algorithm) -> list[str]:
    """Return a line for each setting that differs from its default and cannot change what is learned."""
    from purejaxppo.networks.policy_heads import num_means
    from purejaxppo.networks.settings import ignored_network_settings

    continuous = num_means(algo.env.action_space) > 0
    ignored = ignored_network_settings(run.network, algo.env)
    ignored |= ignored_settings(run.config, run.network, continuous=continuous)
    return ignored_changes(run, ignored)
