"""Small recurrent networks of every kind, and the settings of an update with sequences."""

from functools import cache

import jax
import numpy as np
from nets import env_of

from purejaxppo.config.schema import Config, NetworkConfig
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.actor_critic import make_network

KINDS = ("gru", "lstm", "lru")
SPACE = box(-1, 1, (2,))
CONFIG = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, sequence_length=4, total_timesteps=64)


@cache
def network_of(kind, shared=False, **changes):
    return make_network(
        env_of(SPACE, Discrete(3)), NetworkConfig(kind, (5,), rnn_size=4, shared_torso=shared, **changes)
    )


def assert_close(a, b, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol)
