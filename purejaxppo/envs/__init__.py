"""Environments: the protocol, spaces, masks, resets, wrappers, and the adapters of suites.

Whoever writes an environment imports from here. Imports `_util` and `config`.
"""

from purejaxppo.envs.auto_reset import RESETS, StepNoise, auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.registry import available, make
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, box

__all__ = [
    "RESETS",
    "Box",
    "Discrete",
    "Env",
    "MultiDiscrete",
    "Space",
    "StepNoise",
    "TimeStep",
    "VecEnv",
    "auto_reset",
    "available",
    "box",
    "check_env",
    "conform",
    "make",
]
