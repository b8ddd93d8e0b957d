"""Network settings without effect are listed, and only those."""

import dataclasses

import jax
import numpy as np
import pytest
from nets import env_of
from readable import readable

from purejaxppo.config.schema import NetworkConfig
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.networks.settings import ignored_network_settings

VECTOR, IMAGE = box(-1, 1, (3,)), box(0, 255, (5, 6, 2), np.uint8, pixels=True)
CODES = box(0, 3, (5, 4, 2), np.uint8, codes=True)
NO_SYMBOLS = {"symbols", "embedding_size"}
NO_CRITIC = {"critic_hidden_sizes", "critic_activation"}
NO_LAYERS = {"activation", "critic_activation", "layer_norm"}

OTHER = {
    "symbols": "scalar",
    "embedding_size": 8,
    "critic_hidden_sizes": (3,),
    "critic_activation": "relu",
    "activation": "relu",
    "layer_norm": True,
    "kernel_init": "lecun_uniform",
    "compute_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("config", "space", "expected"),
    [
        ({}, VECTOR, NO_SYMBOLS),
        ({}, CODES, {"embedding_size"}),
        ({"symbols": "embedding"}, CODES, set()),
        ({"shared_torso": True}, VECTOR, NO_SYMBOLS | NO_CRITIC),
        ({"hidden_sizes": ()}, VECTOR, NO_SYMBOLS | NO_LAYERS | {"compute_dtype"}),
        ({"hidden_sizes": (), "kind": "gru"}, VECTOR, NO_SYMBOLS | NO_LAYERS),
        ({"hidden_sizes": (), "encoder": "cnn"}, IMAGE, NO_SYMBOLS),
        ({"hidden_sizes": (), "critic_hidden_sizes": (4,)}, VECTOR, NO_SYMBOLS),
        (
            {"hidden_sizes": (), "critic_hidden_sizes": (4,), "critic_activation": "elu"},
            VECTOR,
            NO_SYMBOLS | {"activation"},
        ),
        ({"hidden_sizes": (), "symbols": "embedding"}, CODES, NO_LAYERS),
    ],
    ids=readable,
)
def test_ignored_settings_change_no_operation_and_the_others_do(config, space, expected):
    """The traced program is the same exactly for the settings that are ignored."""
    config = NetworkConfig(**{"hidden_sizes": (4,), "rnn_size": 2} | config)
    env = env_of(space, Discrete(2))
    assert set(ignored_network_settings(config, env)) == {f"network.{name}" for name in expected}

    def program(config):
        network = make_network(env, config)

        def run(key):
            obs = jax.tree.map(lambda x: x[None, None], space.low)
            return network.apply(network.init(key), network.initial_rnn_state(1), obs, np.ones((1, 1), bool))

        return str(jax.make_jaxpr(run)(jax.random.key(0)))

    base = program(config)
    same = {name for name, value in OTHER.items() if program(dataclasses.replace(config, **{name: value})) == base}
    assert same == expected
