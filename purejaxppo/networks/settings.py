"""Find network settings that have no effect with the spaces of an environment."""

from __future__ import annotations

import jax

from purejaxppo.config.schema import RECURRENT_KINDS, NetworkConfig
from purejaxppo.envs.protocol import Env, VecEnv
from purejaxppo.networks.inputs import is_image, is_symbolic


def ignored_network_settings(config: NetworkConfig, env: Env | VecEnv) -> dict[str, str]:
    """List the settings of the layers that change nothing for `env`, by name, whatever their value.

    Complements `purejaxppo.config.checks.ignored_settings`, which does not know the observation space.

    Args:
        config: valid settings that fit `env`.
        env: the environment.

    Returns:
        The reason by dotted key, such as {"network.embedding_size": 'needs symbols = "embedding"'}.
    """
    ignored = {}
    leaves = jax.tree.leaves(env.observation_space)
    if not any(map(is_symbolic, leaves)):
        ignored["network.symbols"] = "needs observations of integer codes"
    if config.symbols != "embedding":
        ignored["network.embedding_size"] = 'needs symbols = "embedding"'
    if config.shared_torso:
        keys = ("network.critic_hidden_sizes", "network.critic_activation")
        ignored |= dict.fromkeys(keys, "needs shared_torso = false")
    actor_layers = bool(config.hidden_sizes) or (config.convolves and any(map(is_image, leaves)))
    critic_layers = not config.shared_torso and (actor_layers or bool(config.critic_hidden_sizes))
    if not actor_layers and not (critic_layers and config.critic_activation == "same"):
        ignored["network.activation"] = "needs hidden layers"
    if not actor_layers and not critic_layers:
        ignored |= dict.fromkeys(("network.critic_activation", "network.layer_norm"), "needs hidden layers")
        if config.kind not in RECURRENT_KINDS and config.symbols != "embedding":
            ignored["network.compute_dtype"] = "needs hidden layers, since the heads are float32"
    return ignored
