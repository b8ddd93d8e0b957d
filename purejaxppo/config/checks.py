"""Validate settings: every problem at once, each with its key and the nearest valid value."""

import math
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from purejaxppo._util.text import nearest
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import RECURRENT_KINDS, TABLES, Config, Hyperparams, NetworkConfig, Run, minibatch_shape

# What a number may be, in interval notation: `]` closes, `)` leaves out. inf is inside only behind a `]`.
INTERVALS = {
    "seed": "[0, 4294967295]",
    "config.num_envs": "[1, 2147483647]",
    "config.num_steps": "[1, 2147483647]",
    "config.num_epochs": "[1, 1000000]",
    "config.num_minibatches": "[1, 2147483647]",
    "config.total_timesteps": "[1, 1000000000000000]",
    "config.n_step": "[1, 2147483647]",
    "config.sequence_length": "[0, 2147483647]",
    "config.burn_in": "[0, 2147483647]",
    "config.microbatch_size": "[0, 2147483647]",
    "config.num_devices": "[0, 65536]",
    "network.hidden_sizes": "[1, 1000000]",
    "network.rnn_size": "[1, 1000000]",
    "network.log_std_init": "[-20, 20]",
    "hyperparams.learning_rate": "[0, inf)",
    "hyperparams.lr_anneal": "[0, 1]",
    "hyperparams.gamma": "[0, 1]",
    "hyperparams.gae_lambda": "[0, 1]",
    "hyperparams.clip_eps": "(0, inf]",
    "hyperparams.clip_asymmetry": "(0, inf]",
    "hyperparams.dual_clip": "(1, inf]",
    "hyperparams.vf_coef": "[0, inf)",
    "hyperparams.vf_clip_eps": "(0, inf]",
    "hyperparams.ent_coef": "[0, inf)",
    "hyperparams.max_grad_norm": "(0, inf]",
    "hyperparams.adam_b1": "[0, 1)",
    "hyperparams.adam_b2": "[0, 1)",
    "hyperparams.adam_eps": "(0, inf)",
    "hyperparams.target_kl": "(0, inf]",
    "hyperparams.beta": "[0, inf)",
    "hyperparams.beta_target_kl": "(0, inf]",
    "hyperparams.lr_target_kl": "(0, inf]",
    "hyperparams.clip_target_kl": "(0, inf]",
    "hyperparams.value_lambda": "[0, 1]",
    "hyperparams.trpo_delta": "(0, inf)",
    "hyperparams.trpo_damping": "[0, inf)",
}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def _type_name(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list"}
    names |= {tuple: "a list", dict: "a table", type(None): "nothing"}
    return names.get(type(value), f"a value of type {type(value).__name__}")


def is_int(value: Any) -> bool:
    """Return whether `value` is an integer; booleans are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def wrong_type(key: str, value: Any, expected: str) -> Problem:
    """The problem of a value of another type."""
    hint = ""
    if expected == "an integer" and isinstance(value, float) and value.is_integer():
        hint = f"; write {int(value)}"
    if expected == "a number" and isinstance(value, str):
        hint = "; write it without quotes"
    return Problem(key, f" = {_shown(value)}: expected {expected}, got {_type_name(value)}{hint}")


def _numbers(value: Any) -> np.ndarray | None:
    """Return the numbers of a scalar or a concrete array; None where they are not known (traced, abstract).

    Raises TypeError for what is no number at all.
    """
    if isinstance(value, float):
        return np.asarray(value)
    if is_int(value):
        return np.asarray(max(-(2.0**63), min(2.0**63, value)))  # an integer may exceed every float
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        import jax  # the value may be one of its arrays; config itself stays quick to import
        from jax.core import Tracer

        if not np.issubdtype(value.dtype, np.number) and not str(value.dtype).startswith("bfloat"):
            raise TypeError
        known = isinstance(value, np.ndarray | np.generic | jax.Array) and not isinstance(value, Tracer)
        return np.asarray(value, np.float64) if known and getattr(value, "is_fully_addressable", True) else None
    raise TypeError


def _in_words(interval: str) -> str:
    """Say what an interval such as "[0, 1)" or "(0, inf]" allows."""
    low, high = interval[1:-1].split(", ")
    if interval == f"[{low}, {high}]" and high != "inf":
        return f"must lie between {low} and {high}"
    words = f"must be {'at least' if interval[0] == '[' else 'above'} {low}"
    if high == "inf":
        return words + (" (inf: off)" if interval[-1] == "]" else " and finite")
    return f"{words} and below {high}"


def _interval_problem(key: str, value: Any, interval: str) -> list[Problem]:
    """Check a number, or every number of an array, against an interval."""
    numbers = _numbers(value)
    if numbers is None:
        return []
    if numbers.size == 0:
        return [Problem(key, ": an empty array")]
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = numbers >= low if interval[0] == "[" else numbers > low
    below = numbers <= high if interval[-1] == "]" else numbers < high
    inside = above & below  # a NaN is on neither side
    if inside.all():
        return []
    index = tuple(int(i) for i in np.argwhere(~inside)[0])
    first = float(numbers[index])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    shown = f"{first:g}" if hasattr(value, "dtype") else _shown(value)
    hint = ""
    if first < low and interval[0] == "[":
        hint = f"; nearest valid value: {low:g}"
    elif first > high and interval[-1] == "]":
        hint = f"; nearest valid value: {high:.16g}"
    return [Problem(key + place, f" = {shown}: {_in_words(interval)}{hint}")]


def value_problems(key: str, value: Any, hint: Any) -> list[Problem]:
    """Check one value against the type of its field and against its interval."""
    if get_origin(hint) is Literal:
        return _choice_problems(key, value, get_args(hint))
    if hint is bool:
        return [] if isinstance(value, bool | np.bool_) else [wrong_type(key, value, "true or false")]
    if hint is str:
        return [] if isinstance(value, str) else [wrong_type(key, value, "a string")]
    if hint is int:
        return (
            _interval_problem(key, value, INTERVALS[key]) if is_int(value) else [wrong_type(key, value, "an integer")]
        )
    if hint is float:
        try:
            return _interval_problem(key, value, INTERVALS[key])
        except TypeError:
            return [wrong_type(key, value, "a number")]
    return _sizes_problems(key, value)


def _choice_problems(key: str, value: Any, choices: tuple[str, ...]) -> list[Problem]:
    if value in choices and isinstance(value, str):
        return []
    listed = ", ".join(choices)
    if not isinstance(value, str):
        return [wrong_type(key, value, f"one of the names {listed}")]
    return [
        Problem(
            key,
            f' = "{value}": no such choice; did you mean "{nearest(value, choices)[0]}"? (one of {listed})',
        )
    ]


def _sizes_problems(key: str, value: Any) -> list[Problem]:
    if not isinstance(value, list | tuple) or not all(is_int(size) for size in value):
        return [wrong_type(key, value, "a list of integers")]
    return [
        Problem(f"{key}[{i}]", problem.text)
        for i, size in enumerate(value)
        for problem in _interval_problem(key, size, INTERVALS[key])
    ]


def _around(value: int, valid: Iterable[int]) -> str:
    """Return the nearest valid values below and above, as text."""
    below = max((v for v in valid if v < value), default=None)
    above = min((v for v in valid if v > value), default=None)
    return " or ".join(str(v) for v in (below, above) if v is not None)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _multiples_around(value: int, unit: int) -> list[int]:
    return [m for m in (value // unit * unit, (value // unit + 1) * unit) if m > 0]


def _sequence_problems(c: Config, recurrent: bool) -> list[Problem]:
    if c.sequence_length and c.num_steps % c.sequence_length:
        text = f" = {c.sequence_length}: does not divide num_steps = {c.num_steps}; nearest valid values: "
        return [Problem("config.sequence_length", text + _around(c.sequence_length, _divisors(c.num_steps)))]
    if not c.burn_in:
        return []
    if not recurrent:
        return [
            Problem("config.burn_in", f" = {c.burn_in}: a network without a memory has none to refresh; set it to 0")
        ]
    if c.sequence_length in (0, c.num_steps):
        text = f" = {c.burn_in}: a sequence of all num_steps = {c.num_steps} has no steps before it"
        return [Problem("config.burn_in", f"{text}; set it to 0, or sequence_length below num_steps")]
    if c.burn_in > c.sequence_length:
        text = f" = {c.burn_in}: more than the sequence_length = {c.sequence_length} steps before a sequence"
        return [Problem("config.burn_in", f"{text}; nearest valid value: {c.sequence_length}")]
    return []


def _minibatch_problems(c: Config, recurrent: bool) -> list[Problem]:
    """Minibatches share out B = T * N samples, or whole sequences where the network is recurrent."""
    per_env = c.num_steps if not recurrent else c.num_steps // (c.sequence_length or c.num_steps)
    count, m = c.num_envs * per_env, c.num_minibatches
    valid = [n for n in _divisors(count) if not c.normalize_advantages or n < c.timesteps_per_update]
    if count % m == 0:
        if m in valid:
            return []
        most = f"at most {valid[-1]}, or " if valid else ""
        text = f" = {m}: one sample each leaves nothing to normalise; {most}normalize_advantages = false"
        return [Problem("config.num_minibatches", text)]
    what = "sequences" if recurrent else "num_envs * num_steps"
    unit = m // math.gcd(m, per_env)
    envs = _around(c.num_envs, _multiples_around(c.num_envs, unit))
    text = (
        f" = {m}: does not divide the {count} {what} of an update; "
        f"nearest valid values: {_around(m, valid or [1])} (or num_envs = {envs})"
    )
    return [Problem("config.num_minibatches", text)]


def _device_problems(c: Config, recurrent: bool) -> list[Problem]:
    count = max(c.num_devices, 1)
    problems = []
    if c.num_envs % count:
        text = f" = {c.num_devices}: does not divide num_envs = {c.num_envs}; nearest valid values: "
        problems.append(Problem("config.num_devices", text + _around(count, _divisors(c.num_envs))))
    if (columns := minibatch_shape(c, recurrent)[1]) % count:
        what = "sequences" if recurrent else "samples"
        text = f" = {c.num_devices}: does not divide the {columns} {what} of a minibatch; nearest valid values: "
        problems.append(Problem("config.num_devices", text + _around(count, _divisors(columns))))
    return problems


def _joint_problems(config: Config, recurrent: bool, bad: set[str]) -> list[Problem]:
    """Check what settings must satisfy together; skipped where one of them is known to be wrong by itself."""
    problems = []
    rollout = {"config.num_envs", "config.num_steps"}
    sequences = {"config.num_steps", "config.sequence_length", "config.burn_in"}
    c = config
    if not bad & sequences:
        problems += _sequence_problems(c, recurrent)
    if not bad & rollout and c.timesteps_per_update > 2**31 - 1:
        text = f" = {c.num_envs}: num_envs * num_steps = {c.timesteps_per_update} exceeds 2147483647"
        return [*problems, Problem("config.num_envs", f"{text}; at most {(2**31 - 1) // c.num_steps}")]
    if not problems and not bad & (rollout | sequences | {"config.num_minibatches"}):
        problems += _minibatch_problems(c, recurrent)
        problems += [] if problems or "config.num_devices" in bad else _device_problems(c, recurrent)
    if not bad & (rollout | {"config.total_timesteps"}) and c.num_updates < 1:
        text = f" = {c.total_timesteps}: less than one update of num_envs * num_steps = {c.timesteps_per_update}"
        problems.append(Problem("config.total_timesteps", f"{text}; nearest valid value: {c.timesteps_per_update}"))
    return problems


def _table_problems(name: str, table: Any) -> list[Problem]:
    """Check every field of a Config, NetworkConfig or Hyperparams on its own."""
    hints = get_type_hints(TABLES[name])
    return [p for key, hint in hints.items() for p in value_problems(f"{name}.{key}", getattr(table, key), hint)]


def find_problems(
    config: Config | None = None,
    network: NetworkConfig | None = None,
    hyperparams: Hyperparams | None = None,
    recurrent: bool = False,
) -> list[Problem]:
    """Return all that is wrong with the settings, an empty list where nothing is.

    Args:
        config: static settings.
        network: network settings.
        hyperparams: traced numbers; only concrete ones are looked at, arrays element by element.
        recurrent: minibatches hold whole sequences; implied by `network` where it is given.

    Raises:
        TypeError: one kind of settings was handed in the place of another.
    """
    parts = {"config": config, "network": network, "hyperparams": hyperparams}
    problems: list[Problem] = []
    for name, part in parts.items():
        if part is None:
            continue
        if not isinstance(part, TABLES[name]):
            raise TypeError(f"{name} must be a {TABLES[name].__name__}, got {type(part).__name__}")
        problems += _table_problems(name, part)
    if config is None:
        return problems
    recurrent = recurrent or (network is not None and network.kind in RECURRENT_KINDS)
    if config.policy_step == "trpo" and network is not None and network.shared_torso:
        text = ' = true: with policy_step "trpo" fitting the values would move the policy; nearest valid value: false'
        problems.append(Problem("network.shared_torso", text))
    if config.policy_step == "trpo" and config.objective not in ("clip", "none"):  # "clip" is what nobody chose
        text = f' = "{config.objective}": policy_step "trpo" climbs the surrogate (5) itself; leave the objective out'
        problems.append(Problem("config.objective", text))
    return problems + _joint_problems(config, recurrent, {problem.key for problem in problems})


def check_parts(
    config: Config | None = None,
    network: NetworkConfig | None = None,
    hyperparams: Hyperparams | None = None,
    recurrent: bool = False,
) -> None:
    """Raise ConfigError with every problem of `find_problems`, or return where there is none."""
    problems = find_problems(config, network, hyperparams, recurrent)
    if problems:
        raise ConfigError(problems)


def check(run: Run, problems: Iterable[Problem] = (), source: str = "") -> Run:
    """Return `run` where all of it is valid.

    Args:
        run: the settings.
        problems: what is known to be wrong already (from `read_toml`, or of the environment).
        source: where the settings come from, for the message.

    Raises:
        ConfigError: with every problem at once.
    """
    known = list(problems)
    found = value_problems("env", run.env, str) + value_problems("seed", run.seed, int)
    found += find_problems(run.config, run.network, run.hyperparams)
    bad = {problem.key for problem in known}
    related = {"config.num_envs", "config.num_steps", "config.num_minibatches", "config.total_timesteps"}
    for problem in found:
        # A faulty value was replaced by its default: what follows from the default is no news.
        if problem.key not in bad and not (problem.key in related and bad & related):
            known.append(problem)
    if known:
        raise ConfigError(known, source)
    return run
