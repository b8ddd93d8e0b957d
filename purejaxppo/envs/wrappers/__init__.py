"""Functions Env -> Env that change observations, actions or the end of episodes.

Imports the rest of `envs`, but no suite.
"""

from purejaxppo.envs.wrappers.actions import clip_action, map_action, rescale_action, sticky_actions, with_action_mask
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
    mask_observation,
)

__all__ = [
    "append_previous",
    "clip_action",
    "flatten_observation",
    "frame_stack",
    "map_action",
    "map_observation",
    "mask_observation",
    "rescale_action",
    "sticky_actions",
    "time_limit",
    "with_action_mask",
]
