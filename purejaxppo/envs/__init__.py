"""Environments: the protocol, spaces, masks, resets, wrappers, and the adapters of suites.

Authors of environments import from here. Imports `_util` and `config`.
"""

from purejaxppo.envs.auto_reset import RESETS, StepNoise, auto_reset
from purejaxppo.envs.conformance import check_env, conform
from purejaxppo.envs.errors import EnvironmentProblem, EnvironmentUnavailable, MissingSuite, UnknownEnvironment
from purejaxppo.envs.families import lift, parametrized
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, check_is_env
from purejaxppo.envs.registry import available, make
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, box

__all__ = [
    "RESETS",
    "Box",
    "Discrete",
    "Env",
    "EnvironmentProblem",
    "EnvironmentUnavailable",
    "MissingSuite",
    "MultiDiscrete",
    "Space",
    "StepNoise",
    "TimeStep",
    "UnknownEnvironment",
    "VecEnv",
    "auto_reset",
    "available",
    "box",
    "check_env",
    "check_is_env",
    "conform",
    "lift",
    "make",
    "parametrized",
]
