"""Wrappers: functions Env -> Env that change observations, masks, actions, rewards or the end of episodes.

Wrappers of several agents, `fold_agents` and `frozen_opponent`, make a VecEnv. Imports the rest of `envs`, no suite.
"""

from purejaxppo.envs.wrappers.action_masks import always_some_action, with_action_mask
from purejaxppo.envs.wrappers.actions import clip_action, map_action, rescale_action, sticky_actions
from purejaxppo.envs.wrappers.agents import OpponentParams, fold_agents, frozen_opponent
from purejaxppo.envs.wrappers.episodes import action_repeat, time_limit
from purejaxppo.envs.wrappers.observations import (
    append_previous,
    flatten_observation,
    frame_stack,
    map_observation,
    mask_observation,
)
from purejaxppo.envs.wrappers.rewards import reward_clip, reward_scale

__all__ = [
    "OpponentParams",
    "action_repeat",
    "always_some_action",
    "append_previous",
    "clip_action",
    "flatten_observation",
    "fold_agents",
    "frame_stack",
    "frozen_opponent",
    "map_action",
    "map_observation",
    "mask_observation",
    "rescale_action",
    "reward_clip",
    "reward_scale",
    "sticky_actions",
    "time_limit",
    "with_action_mask",
]
