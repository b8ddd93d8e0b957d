"""Declarations of all settings: frozen dataclasses are static, the numbers of a NamedTuple are traced.

The comment next to a field is also its text in `--help`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_type_hints

import numpy as np

from purejaxppo.config.names import place_of, suggestion

if TYPE_CHECKING:
    import jax

    Number: TypeAlias = float | jax.Array
else:
    Number = float  # what a file and the command line can give

Activation: TypeAlias = Literal["tanh", "relu", "silu", "swish", "gelu", "elu"]
KernelInit: TypeAlias = Literal["orthogonal", "lecun_uniform", "lecun_normal"]

RECURRENT_KINDS = ("gru", "lstm", "lru")


@dataclasses.dataclass(frozen=True)
class Config:
    """Static settings of the algorithm: array shapes and program structure. Hashable."""

    num_envs: int = 64  # N, environments that run in parallel
    num_steps: int = 128  # T, steps of each environment per update
    num_epochs: int = 4  # passes over each rollout, K
    num_minibatches: int = 4  # minibatches per epoch
    total_timesteps: int = 500_000  # environment steps of the whole run; annealing ends here
    objective: Literal["clip", "kl", "cpi", "none"] = "clip"  # of the policy: PPO-Clip, PPO-KL, unclipped, none
    targets: Literal["gae", "monte_carlo", "n_step", "td_lambda"] = "gae"  # regression targets of the value function
    n_step: int = 5  # horizon of targets "n_step"
    policy_step: Literal["gradient", "trpo"] = "gradient"  # minibatch gradient steps, or one TRPO step per rollout
    sequence_length: int = 0  # steps of back-propagation through time; 0: num_steps. Recurrent networks only
    burn_in: int = 0  # steps replayed before a sequence to refresh its recurrent state. Recurrent networks only
    normalize_observations: bool = False  # by a running mean and variance that are constant within an update
    scale_rewards: bool = False  # divide rewards by the running standard deviation of the discounted return
    normalize_advantages: bool = True  # to mean 0 and standard deviation 1 in each minibatch
    truncation: Literal["bootstrap", "terminal", "mask"] = "bootstrap"  # after a time limit: V(s), 0, or no sample
    on_nonfinite: Literal["halt", "quarantine"] = "halt"  # NaN or Inf from an environment: end the run, or reset it
    recompute_advantages: bool = False  # recompute advantages before every epoch, not only before the first
    shuffle: Literal["hash", "permutation"] = "hash"  # order of samples; permutation: exactly uniform, but slower
    microbatch_size: int = 0  # samples per gradient computation; 0: what fits the cache of a CPU, all on a GPU
    num_devices: int = 0  # devices per run; 0: chosen automatically on a CPU, otherwise 1
    resets: Literal["auto", "fresh", "every_step", "pool", "state_pool"] = "auto"  # how first states are computed
    pool_size: int = 256  # first states in the pool of resets "pool" and "state_pool"
    pool_refresh: int = 1  # states of the pool that each step replaces; 0: none. Resets "state_pool" only
    stagger: int = 0  # truncate first episodes after 1 to this many steps, so that they do not end together; 0: off
    max_skipped: int = 0  # updates in a row without a step, because all were NaN or infinite; one more ends the run
    diagnostics: bool = False  # compute additional, more expensive metrics

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
    activation: Activation = "tanh"  # after every layer; swish is silu
    critic_hidden_sizes: tuple[int, ...] = ()  # widths of the critic's dense layers; empty: hidden_sizes
    critic_activation: Literal["same", "tanh", "relu", "silu", "swish", "gelu", "elu"] = "same"  # of the critic
    layer_norm: bool = False  # layer normalization before every activation
    kernel_init: KernelInit = "orthogonal"  # initial kernels of dense layers, convolutions and heads
    shared_torso: bool = False  # one torso for actor and critic instead of one each
    encoder: Literal["dense", "cnn"] = "dense"  # layers for images; kind "cnn" implies "cnn"
    symbols: Literal["one_hot", "embedding", "scalar"] = "one_hot"  # how grids of integer codes are read
    embedding_size: int = 16  # values per code. Symbols "embedding" only
    rnn_size: int = 128  # width of the recurrent state. Recurrent networks only
    log_std_init: float = 0.0  # initial log standard deviation of a Gaussian policy
    action_distribution: Literal["gaussian", "tanh_gaussian"] = "gaussian"  # for continuous actions
    state_dependent_std: bool = False  # standard deviation as an output of the network, not a parameter
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # dtype of the layers; parameters stay float32

    @property
    def convolves(self) -> bool:
        """Whether images go through convolutions; otherwise they are raveled."""
        return "cnn" in (self.kind, self.encoder)


class Hyperparams(NamedTuple):
    """Traced numbers: each may be an array under `vmap`. `inf` switches a limit off."""

    learning_rate: Number = 2.5e-4  # learning rate of Adam
    lr_anneal: Number = 1.0  # 1: learning rate and trpo_delta fall linearly to 0 over the run; 0: constant
    gamma: Number = 0.99  # discount factor γ
    gae_lambda: Number = 0.95  # λ of generalized advantage estimation
    clip_eps: Number = 0.2  # ε, half the range of the clipped ratio. Objective "clip" only
    clip_asymmetry: Number = 1.0  # the upper bound of the ratio is 1 + clip_asymmetry * clip_eps
    dual_clip: Number = math.inf  # upper bound of the ratio of samples with a negative advantage
    vf_coef: Number = 0.5  # weight of the value loss (mean squared error)
    vf_clip_eps: Number = math.inf  # range of the clipped value loss
    ent_coef: Number = 0.0  # weight of the entropy bonus
    max_grad_norm: Number = 0.5  # bound on the global norm of the gradient
    adam_b1: Number = 0.9  # decay of Adam's mean of gradients
    adam_b2: Number = 0.999  # decay of Adam's mean of squared gradients
    adam_eps: Number = 1e-5  # added to Adam's denominator
    reward_clip: Number = 10.0  # bound on scaled rewards; inf: off
    target_kl: Number = math.inf  # above this KL the remaining minibatches of an update are skipped
    beta: Number = 1.0  # initial weight of the KL penalty. Objective "kl" only
    beta_target_kl: Number = math.inf  # beta adapts so that the KL stays near this
    lr_target_kl: Number = math.inf  # the learning rate adapts so that the KL stays near this
    clip_target_kl: Number = math.inf  # the clip range adapts so that the KL stays near this
    value_lambda: Number = 0.95  # λ of targets "td_lambda"
    trpo_delta: Number = 0.01  # KL bound of a TRPO step
    trpo_damping: Number = 0.1  # added to the diagonal of the Fisher matrix in a TRPO step


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that defines a run: the content of a TOML file."""

    env: str = "CartPole-v1"  # id of the environment; `purejaxppo envs` lists them
    env_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # parameters of the environment
    seed: int = 0  # seed of everything random
    config: Config = Config()
    network: NetworkConfig = NetworkConfig()
    hyperparams: Hyperparams = dataclasses.field(default_factory=Hyperparams)
    evaluate_every: int = 0  # updates between evaluations that select the best policy; 0: evaluate only at the end


TOP_LEVEL = ("env", "seed", "evaluate_every")
"""The settings of a TOML file that belong to no table."""

TABLES: dict[str, Any] = {"config": Config, "network": NetworkConfig, "hyperparams": Hyperparams}
"""The tables of a TOML file and the classes that hold them."""


def table_names() -> dict[str, tuple[str, ...]]:
    """Return the settings of each table."""
    return {table: tuple(get_type_hints(cls)) for table, cls in TABLES.items()}


def minibatch_shape(config: Config, recurrent: bool) -> tuple[int, int]:
    """Return (steps of a sequence, sequences of a minibatch); without a recurrent state a sequence is one step."""
    length = (config.sequence_length or config.num_steps) if recurrent else 1
    return length, config.timesteps_per_update // length // config.num_minibatches


def sample_hyperparams() -> tuple[Hyperparams, Hyperparams]:
    """Return hyperparameters to try a user's functions with: the defaults, and the same with 1 for infinite limits.

    A function may rely on a limit that its user sets, so that a result counts as a fault only if it is one with both.
    """
    default = Hyperparams._make(map(np.float32, Hyperparams()))
    return default, Hyperparams._make(np.float32(1.0) if np.isinf(x) else x for x in default)


# ---- Config(learning_rate=...): the error says where a setting belongs


def _refusal(table: str, name: str) -> str:
    """Return a sentence about a keyword that is no setting of this table."""
    names = table_names()
    cls = TABLES[table].__name__
    if place := place_of(name, table, names):
        return f"{cls} has no setting {name}: it belongs to {TABLES[place].__name__}"
    if near := suggestion(name, names[table]):
        return f"{cls} has no setting {name}; did you mean {near}?"
    everywhere = [other for own in names.values() for other in own]
    if near := suggestion(name, everywhere):
        return f"{cls} has no setting {name}; did you mean {near} of {TABLES[place_of(near, table, names)].__name__}?"
    return f"{cls} has no setting {name}"


def _explain_names(table: str, constructor: str) -> None:
    """Make a constructor of a table's class explain keywords that it does not know."""
    cls = TABLES[table]
    names = frozenset(cls.__annotations__)
    build = getattr(cls, constructor)

    @functools.wraps(build)
    def explaining(*args: Any, **kwargs: Any) -> Any:
        unknown = [name for name in kwargs if name not in names]
        if unknown:
            raise TypeError("; ".join(_refusal(table, name) for name in unknown))
        return build(*args, **kwargs)

    setattr(cls, constructor, explaining)


_explain_names("config", "__init__")
_explain_names("network", "__init__")
_explain_names("hyperparams", "__new__")
_explain_names("hyperparams", "_replace")
