"""Proximal Policy Optimization as pure JAX functions: a whole training run is one XLA program.

The names below are imported when they are first used: JAX takes a second to load, and `purejaxppo --help` needs none
of it.
"""

from importlib import import_module
from sys import modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same as HOME, for editors and type checkers
    from purejaxppo.config import Config, ConfigError, Hyperparams, NetworkConfig
    from purejaxppo.devices import prepare_cpu
    from purejaxppo.envs import available, make
    from purejaxppo.evaluate import evaluate, record
    from purejaxppo.metrics import Metrics
    from purejaxppo.networks import Network, from_module, make_network, mlp
    from purejaxppo.ppo import make_ppo
    from purejaxppo.state import Algorithm, TrainState
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
    "prepare_cpu",
    "record",
    "sweep",
    "train",
]

HOME = {
    "config": ("Config", "ConfigError", "Hyperparams", "NetworkConfig"),
    "devices": ("prepare_cpu",),
    "envs": ("available", "make"),
    "evaluate": ("evaluate", "record"),
    "metrics": ("Metrics",),
    "networks": ("Network", "from_module", "make_network", "mlp"),
    "ppo": ("make_ppo",),
    "state": ("Algorithm", "TrainState"),
    "sweep": ("sweep",),
    "train": ("init_state", "iterate", "train"),
}


def __getattr__(name: str) -> Any:
    for home, names in HOME.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"purejaxppo.{home}"), name)
            return value
    raise AttributeError(f"module 'purejaxppo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _FrontDoor(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Python hangs a module that it imports onto its package; `train` here is the function, not the module
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


modules[__name__].__class__ = _FrontDoor
