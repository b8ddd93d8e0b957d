"""State and algorithm, with the shapes of their fields; the types of samples are those of `batching/samples.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from jax import Array

from purejaxppo._util.aliases import (
    EnvState,
    Observation,
    OptState,
    Params,
    PRNGKey,
    PyTree,
    RnnState,
)
from purejaxppo.batching.plan import Plan
from purejaxppo.batching.samples import Batch as Batch
from purejaxppo.batching.samples import Transition as Transition
from purejaxppo.batching.shuffles import Shuffle
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.functional.bindings import Objective, TargetFn
from purejaxppo.functional.episode_stats import EpisodeStats
from purejaxppo.functional.kl_control import Control
from purejaxppo.functional.running_stats import RewardScaler, RunningMoments
from purejaxppo.hooks import AuxiliaryLoss, IntrinsicReward, MetricsFn, no_auxiliary_loss
from purejaxppo.metrics import Metrics
from purejaxppo.networks.protocol import Network
from purejaxppo.optimizer import Optimizer


class TrainState(NamedTuple):
    """The whole state of a run: together with the hyperparameters it determines the rest of the run."""

    params: Params
    opt_state: OptState
    env_state: EnvState  # [N, ...]
    obs: Observation  # [N, ...] to act on next, not normalized
    rnn_state: RnnState  # [N, ...] before `obs`; () for feed-forward networks
    is_first: Array  # [N] bool, `obs` is the first of an episode
    obs_moments: RunningMoments  # updated at the end of an iteration only
    reward_scaler: RewardScaler
    control: Control
    last_residual: Array  # [] of the diagnostics: mean TD residual of the last rollout under the values fitted to it
    episodes: EpisodeStats  # [N] of the unfinished episodes
    key: PRNGKey
    num_updates: Array  # [] int32; one update is num_envs * num_steps timesteps
    skipped_updates: Array  # [] float32, updates in a row, up to now, whose minibatch steps were all skipped
    intrinsic: PyTree = ()  # state of the intrinsic reward, if there is one
    env_params: PyTree = ()  # parameters of the environment; [N, ...] if they are separate for each column


PER_ENV_FIELDS = ("env_state", "obs", "rnn_state", "is_first", "reward_scaler", "episodes")  # leaves [N, ...]


class Components(NamedTuple):
    """The arguments of `make_ppo`, with names resolved to functions. Static."""

    env: VecEnv
    network: Network
    config: Config
    objective: Objective
    target_fn: TargetFn
    shuffle: Shuffle
    normalized: tuple[bool | tuple[bool, ...], ...]  # for each leaf of an observation: is it normalized?
    optimizer: Optimizer
    auxiliary_loss: AuxiliaryLoss
    intrinsic: IntrinsicReward | None
    metrics_fn: MetricsFn
    plan: Plan

    @property
    def has_auxiliary_loss(self) -> bool:
        """Return whether there is an auxiliary loss, for which the batch has the observation after each action."""
        return self.auxiliary_loss is not no_auxiliary_loss


class Init(Protocol):
    """Make the first state; without parameters of the environment, with its default ones."""

    def __call__(self, key: PRNGKey, h: Hyperparams, env_params: PyTree = None) -> TrainState:
        """Return the state before the first iteration."""
        ...


Update: TypeAlias = Callable[[TrainState, Hyperparams], tuple[TrainState, Metrics]]


class Algorithm(NamedTuple):
    """A pair of pure functions, and the objects they were made from."""

    init: Init
    update: Update
    env: Env | VecEnv
    network: Network
    config: Config
    components: Components
