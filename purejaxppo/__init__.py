"""Proximal Policy Optimization as pure JAX functions: a whole training run is one XLA program."""

from purejaxppo.config import Config, ConfigError, Hyperparams, NetworkConfig
from purejaxppo.envs import available, make
from purejaxppo.evaluate import evaluate, record
from purejaxppo.networks import Network, from_module, make_network, mlp
from purejaxppo.ppo import make_ppo
from purejaxppo.state import Algorithm, Metrics, TrainState
from purejaxppo.sweep import sweep
from purejaxppo.train import init_state, iterate, train

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "Config",
    "ConfigError",
    "Hyperparams",
    "Metrics",
    "Network",
    "NetworkConfig",
    "TrainState",
    "available",
    "evaluate",
    "from_module",
    "init_state",
    "iterate",
    "make",
    "make_network",
    "make_ppo",
    "mlp",
    "record",
    "sweep",
    "train",
]
