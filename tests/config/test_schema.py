"""Declarations of settings: static or traced, and constructors that say where a setting belongs."""

import dataclasses
import pickle
import re
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.config.schema import TABLES, Config, Hyperparams, NetworkConfig, minibatch_shape, sample_hyperparams
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS


def test_static_settings_are_hashable_and_frozen():
    assert hash(Config()) == hash(Config())
    assert hash(NetworkConfig()) == hash(NetworkConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().num_envs = 3


def test_hyperparams_are_a_pytree_of_numbers():
    h = Hyperparams(1e-3, gamma=0.5)
    assert jax.tree.map(lambda x: x, h) == h == pickle.loads(pickle.dumps(h))
    assert jax.vmap(lambda h: h.gamma)(Hyperparams(*(jnp.ones(2) for _ in h))).tolist() == [1.0, 1.0]


def test_choices_are_the_existing_functions():
    hints = get_type_hints(Config)
    assert set(get_args(hints["objective"])) == OBJECTIVES.keys()
    assert set(get_args(hints["targets"])) == TARGETS.keys()


def test_functions_of_the_user_are_tried_with_the_defaults_and_with_limits():
    default, limited = sample_hyperparams()
    assert default == Hyperparams(*np.float32(Hyperparams()))
    for plain, x in zip(default, limited, strict=True):
        assert x.dtype == np.float32
        assert x == (1.0 if np.isinf(plain) else plain)
    assert np.isinf(default.target_kl)


def test_num_updates_is_the_number_of_whole_updates():
    config = Config(num_envs=4, num_steps=8, total_timesteps=3 * 32 - 1)
    assert (config.timesteps_per_update, config.num_updates) == (32, 2)


def test_a_minibatch_holds_steps_or_whole_sequences():
    config = Config(num_envs=6, num_steps=8, num_minibatches=3)
    assert minibatch_shape(config, recurrent=False) == (1, 16)
    assert minibatch_shape(config, recurrent=True) == (8, 2)
    assert minibatch_shape(dataclasses.replace(config, sequence_length=4), recurrent=True) == (4, 4)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Config(learning_rate=1e-3), "Config has no setting learning_rate: it belongs to Hyperparams"),
        (lambda: Config(hidden_sizes=(8,)), "Config has no setting hidden_sizes: it belongs to NetworkConfig"),
        (lambda: dataclasses.replace(Config(), gamma=1), "Config has no setting gamma: it belongs to Hyperparams"),
        (lambda: Config(num_env=8), "Config has no setting num_env; did you mean num_envs?"),
        (lambda: Hyperparams(num_envs=8), "Hyperparams has no setting num_envs: it belongs to Config"),
        (lambda: Hyperparams(lr=8), "Hyperparams has no setting lr; did you mean learning_rate?"),
        (lambda: Hyperparams()._replace(gama=1), "Hyperparams has no setting gama; did you mean gamma?"),
        (lambda: NetworkConfig(n_envs=8), "NetworkConfig has no setting n_envs; did you mean num_envs of Config?"),
        (lambda: NetworkConfig(zzz=8), "NetworkConfig has no setting zzz"),
        (lambda: Config(zzz=8, gamma=1), "Config has no setting zzz; Config has no setting gamma: it belongs to"),
    ],
)
def test_a_constructor_says_where_a_setting_belongs(make, sentence):
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}"):
        make()


@pytest.mark.parametrize("cls", TABLES.values())
def test_constructors_take_all_settings_by_name(cls):
    values = {name: getattr(cls(), name) for name in get_type_hints(cls)}
    assert cls(**values) == cls()
    with pytest.raises(TypeError):
        cls(*values.values(), 1)
