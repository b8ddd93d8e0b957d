"""Check settings together: every problem at once, each with its key and the nearest valid value."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_type_hints

from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import RECURRENT_KINDS, TABLES, Config, Hyperparams, NetworkConfig, Run, minibatch_shape
from purejaxppo.config.values import show_value, value_problems

INT32_MAX = 2**31 - 1


def check(run: Run, problems: Iterable[Problem] = (), source: str = "") -> Run:
    """Return `run` if all of its settings are valid.

    Args:
        run: the settings.
        problems: problems that are already known, such as those that `parse_toml` returns.
        source: where the settings come from, for the message.

    Raises:
        ConfigError: with every problem at once.
    """
    known = list(problems)
    found = value_problems("env", run.env, str) + value_problems("seed", run.seed, int)
    found += value_problems("evaluate_every", run.evaluate_every, int)
    found += find_problems(run.config, run.network, run.hyperparams)
    bad = {problem.key for problem in known}
    related = {"config.num_envs", "config.num_steps", "config.num_minibatches", "config.total_timesteps"}
    for problem in found:
        # An invalid value was replaced by its default. Problems that the default causes are not reported.
        if problem.key not in bad and not (problem.key in related and bad & related):
            known.append(problem)
    if known:
        raise ConfigError(known, source)
    return run


def check_settings(
    config: Config | None = None,
    network: NetworkConfig | None = None,
    hyperparams: Hyperparams | None = None,
    recurrent: bool = False,
) -> None:
    """Raise an error if `find_problems` finds any.

    Raises:
        ConfigError: with every problem at once.
        TypeError: an argument is of another class than its annotation says.
    """
    problems = find_problems(config, network, hyperparams, recurrent)
    if problems:
        raise ConfigError(problems)


def find_problems(
    config: Config | None = None,
    network: NetworkConfig | None = None,
    hyperparams: Hyperparams | None = None,
    recurrent: bool = False,
) -> list[Problem]:
    """Return every problem of the settings; an empty list if they are valid.

    Args:
        config: static settings.
        network: settings of the network.
        hyperparams: traced numbers. Arrays are checked element by element; traced values are not checked.
        recurrent: whether the network is recurrent, so that minibatches hold whole sequences; if `network` is given,
            its kind decides as well.

    Raises:
        TypeError: an argument is of another class than its annotation says.
    """
    problems: list[Problem] = []
    for name, table in {"config": config, "network": network, "hyperparams": hyperparams}.items():
        if table is None:
            continue
        if not isinstance(table, TABLES[name]):
            raise TypeError(f"{name} must be a {TABLES[name].__name__}, not a {type(table).__name__}")
        problems += _table_problems(name, table)
    if config is None:
        return problems
    recurrent = recurrent or (network is not None and network.kind in RECURRENT_KINDS)
    problems += _trpo_problems(config, network)
    return problems + _joint_problems(config, recurrent, {problem.key for problem in problems})


def _table_problems(name: str, table: Config | NetworkConfig | Hyperparams) -> list[Problem]:
    """Check each setting of a table by itself."""
    hints = get_type_hints(TABLES[name])
    return [p for key, hint in hints.items() for p in value_problems(f"{name}.{key}", getattr(table, key), hint)]


# ---- settings that must fit together


def _conflict(key: str, value: Any, text: str) -> Problem:
    return Problem(f"config.{key}", f" = {show_value(value)}: {text}", "conflict")


def _trpo_problems(config: Config, network: NetworkConfig | None) -> list[Problem]:
    if config.policy_step != "trpo":
        return []
    problems = []
    if network is not None and network.shared_torso:
        text = ' = true: policy_step "trpo" needs a separate critic, because fitting the values would move the policy'
        problems.append(Problem("network.shared_torso", f"{text}; nearest valid value: false", "conflict"))
    if config.objective not in ("clip", "none"):  # "clip" is the default
        text = 'policy_step "trpo" always maximizes the unclipped surrogate and does not accept an objective'
        problems.append(_conflict("objective", config.objective, text))
    return problems


def _joint_problems(config: Config, recurrent: bool, bad: set[str]) -> list[Problem]:
    """Check combinations of settings. A combination is skipped if one of its settings is invalid by itself."""
    rollout = {"config.num_envs", "config.num_steps"}
    sequences = {"config.num_steps", "config.sequence_length", "config.burn_in"}
    problems = []
    if config.pool_refresh > config.pool_size and not bad & {"config.pool_refresh", "config.pool_size"}:
        text = f"must not exceed pool_size = {config.pool_size}; nearest valid value: {config.pool_size}"
        problems.append(_conflict("pool_refresh", config.pool_refresh, text))
    if not bad & sequences:
        problems += _sequence_problems(config, recurrent)
    if not bad & rollout and config.timesteps_per_update > INT32_MAX:
        product = f"num_envs * num_steps = {config.timesteps_per_update} exceeds {INT32_MAX}"
        most = INT32_MAX // config.num_steps
        return [*problems, _conflict("num_envs", config.num_envs, f"{product}; nearest valid value: {most}")]
    if not problems and not bad & (rollout | sequences | {"config.num_minibatches"}):
        problems += _minibatch_problems(config, recurrent)
        problems += [] if problems or "config.num_devices" in bad else _device_problems(config, recurrent)
    if not bad & (rollout | {"config.total_timesteps"}):
        problems += _length_problems(config)
    return problems


def _sequence_problems(config: Config, recurrent: bool) -> list[Problem]:
    length, steps, burn_in = config.sequence_length, config.num_steps, config.burn_in
    if length and steps % length:
        near = _around(length, _divisors(steps))
        return [_conflict("sequence_length", length, f"does not divide num_steps = {steps}; nearest valid {near}")]
    if not burn_in:
        return []
    if not recurrent:
        return [_conflict("burn_in", burn_in, "the network has no recurrent state; nearest valid value: 0")]
    if length in (0, steps):
        text = (
            f"no steps precede a sequence of all num_steps = {steps}; set it to 0, or sequence_length below num_steps"
        )
        return [_conflict("burn_in", burn_in, text)]
    if burn_in > length:
        text = f"must not exceed sequence_length = {length}; nearest valid value: {length}"
        return [_conflict("burn_in", burn_in, text)]
    return []


def _minibatch_problems(config: Config, recurrent: bool) -> list[Problem]:
    """Check that minibatches divide the T * N samples, or the sequences if the network is recurrent."""
    per_env = config.num_steps // minibatch_shape(config, recurrent)[0]
    count, m = config.num_envs * per_env, config.num_minibatches
    valid = [n for n in _divisors(count) if not config.normalize_advantages or n < config.timesteps_per_update]
    if m in valid:
        return []
    if count % m == 0:
        most = f"set it to at most {valid[-1]}, or " if valid else "set "
        text = f"minibatches of one sample cannot be normalized; {most}normalize_advantages = false"
        return [_conflict("num_minibatches", m, text)]
    what = "sequences" if recurrent else "num_envs * num_steps"
    unit = m // math.gcd(m, per_env)
    envs = [n for n in (config.num_envs // unit * unit, (config.num_envs // unit + 1) * unit) if n > 0]
    text = f"does not divide the {count} {what} of an update; nearest valid {_around(m, valid or [1])}"
    return [_conflict("num_minibatches", m, f"{text} (or num_envs = {' or '.join(map(str, envs))})")]


def _device_problems(config: Config, recurrent: bool) -> list[Problem]:
    count = max(config.num_devices, 1)
    problems = []
    if config.num_envs % count:
        near = _around(count, _divisors(config.num_envs))
        text = f"does not divide num_envs = {config.num_envs}; nearest valid {near}"
        problems.append(_conflict("num_devices", config.num_devices, text))
    if (columns := minibatch_shape(config, recurrent)[1]) % count:
        what = "sequences" if recurrent else "samples"
        near = _around(count, _divisors(columns))
        text = f"does not divide the {columns} {what} of a minibatch; nearest valid {near}"
        problems.append(_conflict("num_devices", config.num_devices, text))
    return problems


def _length_problems(config: Config) -> list[Problem]:
    """Check that the run has at least one update and that an int32 can count its updates."""
    size = config.timesteps_per_update
    if config.num_updates < 1:
        text = f"less than one update of num_envs * num_steps = {size}; nearest valid value: {size}"
        return [_conflict("total_timesteps", config.total_timesteps, text)]
    if config.num_updates > INT32_MAX:
        text = f"{config.num_updates} updates, but at most {INT32_MAX} are counted"
        return [
            _conflict("total_timesteps", config.total_timesteps, f"{text}; nearest valid value: {INT32_MAX * size}")
        ]
    return []


def _around(value: int, valid: Iterable[int]) -> str:
    """Return the nearest valid values below and above, as text."""
    below = max((v for v in valid if v < value), default=None)
    above = min((v for v in valid if v > value), default=None)
    near = [str(v) for v in (below, above) if v is not None]
    return f"value{'s' if len(near) > 1 else ''}: {' or '.join(near)}"


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


# ---- settings without effect


def ignored_settings(
    config: Config,
    network: NetworkConfig | None = None,
    *,
    recurrent: bool | None = None,
    continuous: bool | None = None,
    own: Collection[str] = (),
) -> dict[str, str]:
    """Return the settings that cannot change what is learned, each with the condition under which it could.

    Every setting is judged by its name, whatever its value. `sweep` refuses an axis of this kind; the command line
    warns of the settings that were changed (see `ignored_changes`).

    Args:
        config: static settings.
        network: settings of the network; None if the network is the user's own.
        recurrent: whether the network has a recurrent state; None: as `network` says.
        continuous: whether any component of an action is continuous; None if that is unknown.
        own: which functions were handed to `make_ppo` ("objective", "target_fn"). What they read is unknown, so that
            none of the settings they replace is reported.

    Returns:
        The reason by dotted key, such as {"config.n_step": 'needs targets = "n_step"'}.
    """
    if recurrent is None and network is not None:
        recurrent = network.kind in RECURRENT_KINDS
    ignored = {} if "objective" in own else _ignored_by_objective(config)
    if "target_fn" not in own:
        if config.targets != "n_step":
            ignored["config.n_step"] = 'needs targets = "n_step"'
        if config.targets != "td_lambda":
            ignored["hyperparams.value_lambda"] = 'needs targets = "td_lambda"'
    if config.policy_step != "trpo":
        ignored |= dict.fromkeys(("hyperparams.trpo_delta", "hyperparams.trpo_damping"), 'needs policy_step = "trpo"')
    elif network is not None:  # its critic is separate, so that the epochs leave the policy as it is
        ignored["hyperparams.target_kl"] = 'needs policy_step = "gradient"'
    if not config.scale_rewards:
        ignored["hyperparams.reward_clip"] = "needs scale_rewards = true"
    if config.resets not in ("auto", "state_pool"):
        ignored["config.pool_refresh"] = 'needs resets = "state_pool"'
    if config.resets in ("fresh", "every_step"):
        ignored["config.pool_size"] = 'needs resets = "pool" or "state_pool"'
    if config.num_epochs == 1:
        ignored["config.recompute_advantages"] = "needs num_epochs above 1"
    if recurrent is False:
        keys = ("config.sequence_length", "config.burn_in", "network.rnn_size")
        ignored |= dict.fromkeys(keys, "needs a recurrent network")
    if network is not None and network.kind == "cnn":
        ignored["network.encoder"] = 'network.kind = "cnn" implies encoder = "cnn"'
    if network is not None and network.shared_torso:
        keys = ("network.critic_hidden_sizes", "network.critic_activation")
        ignored |= dict.fromkeys(keys, "needs shared_torso = false")
    if network is not None and network.symbols != "embedding":
        ignored["network.embedding_size"] = 'needs symbols = "embedding"'
    if continuous is False:
        keys = ("network.log_std_init", "network.action_distribution", "network.state_dependent_std")
        ignored |= dict.fromkeys(keys, "needs continuous actions")
    return ignored


CLIP_ONLY = ("clip_eps", "clip_asymmetry", "dual_clip", "clip_target_kl")
KL_ONLY = ("beta", "beta_target_kl")


def _ignored_by_objective(config: Config) -> dict[str, str]:
    if config.policy_step == "trpo":
        names = ("config.objective", *(f"hyperparams.{name}" for name in (*CLIP_ONLY, *KL_ONLY)))
        return dict.fromkeys(names, 'policy_step = "trpo" does not read it')
    ignored = {}
    if config.objective != "clip":
        ignored |= dict.fromkeys((f"hyperparams.{name}" for name in CLIP_ONLY), 'needs objective = "clip"')
    if config.objective != "kl":
        ignored |= dict.fromkeys((f"hyperparams.{name}" for name in KL_ONLY), 'needs objective = "kl"')
    return ignored


def ignored_changes(run: Run, ignored: Mapping[str, str]) -> list[str]:
    """Return a line for each ignored setting of `run` that differs from its default."""
    default = Run()
    lines = []
    for key, reason in ignored.items():
        table, _, name = key.partition(".")
        value = getattr(getattr(run, table), name)
        if value != getattr(getattr(default, table), name):
            lines.append(f"{key} = {show_value(value)}: {reason}")
    return lines
