"""Declarations of all settings: static dataclasses, and traced numbers in a NamedTuple."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

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


TABLES = {"config": Config, "network": NetworkConfig, "hyperparams": Hyperparams}


def minibatch_shape(c: Config, recurrent: bool) -> tuple[int, int]:
    """(length of a sequence, sequences in a minibatch); without a memory single samples."""
    length = (c.sequence_length or c.num_steps) if recurrent else 1
    return length, c.timesteps_per_update // length // c.num_minibatches
