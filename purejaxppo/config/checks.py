"""Settings: static ones (`Config`, `NetworkConfig`), traced ones (`Hyperparams`), TOML in and out, checks.

A frozen dataclass fixes shapes and program structure; a NamedTuple of numbers may be batched with `vmap`.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np

if TYPE_CHECKING:
    import jax

    Number: TypeAlias = float | jax.Array
else:
    Number = float  # what a file and the command line may give


RECURRENT_KINDS = ("gru", "lstm", "lru")


@dataclasses.dataclass(frozen=True)
class Config:
    """Static settings of the algorithm: array shapes and program structure. Hashable."""

    num_envs: int = 64  # N: environments stepped side by side
    num_steps: int = 128  # T: steps of each environment per update
    num_epochs: int = 4  # passes over each rollout
    num_minibatches: int = 4  # minibatches per epoch
    total_timesteps: int = 500_000  # environment steps of the whole run; annealing ends here
    objective: Literal["clip", "kl", "cpi", "none"] = "clip"  # policy objective: (7), (8), (5), or none
    targets: Literal["gae", "monte_carlo", "n_step", "td_lambda"] = "gae"  # what the value function is fitted to
    n_step: int = 5  # horizon of targets "n_step"
    policy_step: Literal["gradient", "trpo"] = "gradient"  # how the policy moves: optimiser steps or one step of (6)
    sequence_length: int = 0  # steps of back-propagation through time; 0: num_steps; recurrent networks only
    burn_in: int = 0  # steps before a sequence that refresh the memory it starts from; recurrent networks only
    normalize_observations: bool = False  # by running mean and variance, frozen within an update
    scale_rewards: bool = False  # by the running deviation of the discounted return
    normalize_advantages: bool = True  # per minibatch
    truncation: Literal["bootstrap", "terminal", "mask"] = "bootstrap"  # what a time limit means
    recompute_advantages: bool = False  # anew before every epoch
    shuffle: Literal["hash", "permutation"] = "hash"  # how minibatches are drawn; "permutation" sorts, exact and dear
    microbatch_size: int = 0  # samples that a gradient is taken of at once; 0: what fits a CPU's cache, else all
    num_devices: int = 0  # that share the work of a run; 0: of a CPU as many as pay, else 1
    resets: Literal["fresh", "every_step", "pool"] = "fresh"  # where the states of new episodes come from
    diagnostics: bool = False  # more (and dearer) metrics

    @property
    def timesteps_per_update(self) -> int:
        """Environment steps of one update, B = T * N."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Whole updates that fit in `total_timesteps`."""
        return self.total_timesteps // self.timesteps_per_update


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Static settings of the actor-critic network. Hashable."""

    kind: Literal["mlp", "cnn", "gru", "lstm", "lru"] = "mlp"  # gru, lstm and lru are recurrent
    hidden_sizes: tuple[int, ...] = (64, 64)  # widths of the dense layers
    activation: Literal["tanh", "relu", "silu", "gelu", "elu"] = "tanh"  # behind every layer
    layer_norm: bool = False  # before every activation
    shared_torso: bool = False  # one torso for actor and critic
    encoder: Literal["dense", "cnn"] = "dense"  # how images are read, before a memory too; kind "cnn" implies "cnn"
    rnn_size: int = 128  # width of the recurrent state
    log_std_init: float = 0.0  # of the Gaussian policy
    action_distribution: Literal["gaussian", "tanh_gaussian"] = "gaussian"  # for continuous actions
    state_dependent_std: bool = False  # the deviation is an output of the network, not a parameter
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of the layers; parameters stay float32

    @property
    def convolves(self) -> bool:
        """Whether images go through convolutions; otherwise they are raveled."""
        return "cnn" in (self.kind, self.encoder)


class Hyperparams(NamedTuple):
    """Traced numbers: each may be an array under `vmap`. `inf` switches a limit off."""

    learning_rate: Number = 2.5e-4  # of Adam
    lr_anneal: Number = 1.0  # 1: learning rate and trpo_delta linear to 0 over total_timesteps, 0: constant
    gamma: Number = 0.99  # discount
    gae_lambda: Number = 0.95  # λ of (10)
    clip_eps: Number = 0.2  # ε of (7)
    clip_asymmetry: Number = 1.0  # upper bound of the ratio is 1 + clip_asymmetry * clip_eps
    dual_clip: Number = math.inf  # bound on the ratio where the advantage is negative
    vf_coef: Number = 0.5  # weight of the mean squared value error in (13)
    vf_clip_eps: Number = math.inf  # range of the clipped value loss (11)
    ent_coef: Number = 0.0  # weight of the entropy (12) in (13)
    max_grad_norm: Number = 0.5  # clip by global norm
    adam_b1: Number = 0.9  # decay of the mean gradient
    adam_b2: Number = 0.999  # decay of the mean squared gradient
    adam_eps: Number = 1e-5  # added to its root
    target_kl: Number = math.inf  # KL at which the remaining minibatches of an update are skipped
    beta: Number = 1.0  # first penalty coefficient of (8)
    beta_target_kl: Number = math.inf  # KL that the penalty is adapted to
    lr_target_kl: Number = math.inf  # KL that the learning rate is adapted to
    clip_target_kl: Number = math.inf  # KL that the clip range is adapted to
    value_lambda: Number = 0.95  # λ of targets "td_lambda"
    trpo_delta: Number = 0.01  # δ of (6)
    trpo_damping: Number = 0.1  # added to the diagonal of the Fisher matrix


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that names a run: what a TOML file holds."""

    env: str = "CartPole-v1"  # what to train on; `purejaxppo envs` lists them
    env_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # handed to `make`
    seed: int = 0  # of everything random
    config: Config = Config()
    network: NetworkConfig = NetworkConfig()
    hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)


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


TABLES = {"config": Config, "network": NetworkConfig, "hyperparams": Hyperparams}


class Problem(NamedTuple):
    """One thing that is wrong: the dotted key it is about, and what to do."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}{self.text}"


class ConfigError(ValueError):
    """Settings that cannot be run; the message lists every problem. `problems` holds them one by one."""

    def __init__(self, problems: Iterable[Problem], source: str = ""):
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        head = f"{source}: {count}" if source else f"{count} in the settings"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def nearest(name: str, names: Iterable[str], n: int = 1) -> list[str]:
    """Return the `n` of `names` that look most like `name`, best first; letter case does not count."""
    lowered = {candidate.lower(): candidate for candidate in names}
    return [lowered[low] for low in difflib.get_close_matches(name.lower(), lowered, n=n, cutoff=0.0)]


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


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _wrong_type(key: str, value: Any, expected: str) -> Problem:
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
    if _is_int(value):
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


def _value_problems(key: str, value: Any, hint: Any) -> list[Problem]:
    """Check one value against the type of its field and against its interval."""
    if get_origin(hint) is Literal:
        return _choice_problems(key, value, get_args(hint))
    if hint is bool:
        return [] if isinstance(value, bool | np.bool_) else [_wrong_type(key, value, "true or false")]
    if hint is str:
        return [] if isinstance(value, str) else [_wrong_type(key, value, "a string")]
    if hint is int:
        return (
            _interval_problem(key, value, INTERVALS[key]) if _is_int(value) else [_wrong_type(key, value, "an integer")]
        )
    if hint is float:
        try:
            return _interval_problem(key, value, INTERVALS[key])
        except TypeError:
            return [_wrong_type(key, value, "a number")]
    return _sizes_problems(key, value)


def _choice_problems(key: str, value: Any, choices: tuple[str, ...]) -> list[Problem]:
    if value in choices and isinstance(value, str):
        return []
    listed = ", ".join(choices)
    if not isinstance(value, str):
        return [_wrong_type(key, value, f"one of the names {listed}")]
    return [
        Problem(
            key,
            f' = "{value}": no such choice; did you mean "{nearest(value, choices)[0]}"? (one of {listed})',
        )
    ]


def _sizes_problems(key: str, value: Any) -> list[Problem]:
    if not isinstance(value, list | tuple) or not all(_is_int(size) for size in value):
        return [_wrong_type(key, value, "a list of integers")]
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


def minibatch_shape(c: Config, recurrent: bool) -> tuple[int, int]:
    """(length of a sequence, sequences in a minibatch); without a memory single samples."""
    length = (c.sequence_length or c.num_steps) if recurrent else 1
    return length, c.timesteps_per_update // length // c.num_minibatches


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
    return [p for key, hint in hints.items() for p in _value_problems(f"{name}.{key}", getattr(table, key), hint)]


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
    found = _value_problems("env", run.env, str) + _value_problems("seed", run.seed, int)
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


def _unknown_key(key: str, table: str, names: Iterable[str]) -> Problem:
    owners = [other for other, cls in TABLES.items() if key in get_type_hints(cls) and other != table]
    shown = f"{table}.{key}" if table else key
    if owners:
        return Problem(shown, f": no such key here; it belongs in [{owners[0]}]")
    if table and key in ("env", "seed"):
        return Problem(shown, ": no such key here; it belongs at the top of the file, before any [table]")
    return Problem(shown, f": no such key; did you mean {nearest(key, names)[0]}?")


def _read_table(name: str, given: Any) -> tuple[Any, list[Problem]]:
    """Build the Config, NetworkConfig or Hyperparams of one TOML table; faulty values keep their default."""
    cls = TABLES[name]
    if not isinstance(given, dict):
        return cls(), [_wrong_type(name, given, f"a table [{name}]")]
    hints = get_type_hints(cls)
    values, problems = {}, []
    for key, value in given.items():
        found = (
            _value_problems(f"{name}.{key}", value, hints[key]) if key in hints else [_unknown_key(key, name, hints)]
        )
        problems += found
        if not found:
            values[key] = float(value) if hints[key] is float else tuple(value) if isinstance(value, list) else value
    return cls(**values), problems


def from_tables(given: Mapping[str, Any]) -> tuple[Run, list[Problem]]:
    """Return the Run that the tables of a TOML file describe, and what is wrong; faulty values keep their default."""
    hints = get_type_hints(Run)
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in given.items():
        if key in TABLES:
            values[key], found = _read_table(key, value)
        elif key == "env_params":
            found = [] if isinstance(value, dict) else [_wrong_type(key, value, "a table [env_params]")]
        elif key in hints:
            found = _value_problems(key, value, hints[key])
        else:
            found = [_unknown_key(key, "", hints)]
        if not found:
            values.setdefault(key, value)
        problems += found
    return Run(**values), problems


def parse_toml(text: str) -> tuple[Run, list[Problem]]:
    """Return `from_tables` of a TOML text.

    Raises:
        tomllib.TOMLDecodeError: the text is no TOML.
    """
    return from_tables(tomllib.loads(text))


def read_tables(path: str | Path) -> dict[str, Any]:
    """Return what a TOML file holds, unchecked.

    Raises:
        ConfigError: the file cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Problem("not valid TOML", f": {error}")], str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem("not a text file", ": TOML is written in UTF-8")], str(path)) from None
    except OSError as error:
        raise ConfigError([Problem("cannot be read", f": {error.strerror or error}")], str(path)) from None


def read_toml(path: str | Path) -> tuple[Run, list[Problem]]:
    """Return the Run in a TOML file and what is wrong with it; faulty values keep their default.

    Raises:
        ConfigError: the file cannot be read, or is no TOML.
    """
    return from_tables(read_tables(path))


def load_toml(path: str | Path) -> Run:
    """Return the Run in a TOML file.

    Raises:
        ConfigError: with every problem at once: keys, types, ranges, and what must fit together.
    """
    run, problems = read_toml(path)
    return check(run, problems, str(path))


def _plain(key: str, value: Any) -> Any:
    """Turn one value into what TOML can hold."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, tuple):
        return [_plain(key, v) for v in value]
    if _is_int(value):
        return int(value)
    if hasattr(value, "dtype"):
        if value.shape != ():
            raise ConfigError([Problem(key, f": an array of shape {value.shape} is not one run's setting")])
        return float(value)
    return value


def dump_toml(run: Run) -> str:
    """Return `run` as TOML, with every setting written out; `load_toml` of it gives the same Run.

    Raises:
        ConfigError: a hyperparameter is an array of several numbers.
    """
    import tomli_w

    tables: dict[str, Any] = {"env": run.env, "seed": int(run.seed)}
    if run.env_params:
        tables["env_params"] = dict(run.env_params)
    for name, cls in TABLES.items():
        part = getattr(run, name)
        hints = get_type_hints(cls)
        values = {key: _plain(f"{name}.{key}", getattr(part, key)) for key in hints}
        tables[name] = {key: float(v) if hints[key] is float else v for key, v in values.items()}
    return tomli_w.dumps(tables)
