"""A resumed run is bitwise the uninterrupted one, and refuses settings that would make it another one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import chain
from states import OddAlgorithm, bits, odd_state

import purejaxppo as pp
from purejaxppo import CheckpointError, Config, Hyperparams, NetworkConfig
from purejaxppo.training.resume import setting_problems

CONFIG = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 5)
ENV = chain(limit=6)
RECURRENT = NetworkConfig(kind="gru", hidden_sizes=(4,), rnn_size=4)


def feed_forward():
    """Every KL control, an early stop, and a learning rate that anneals."""
    h = Hyperparams(1e-2, target_kl=1e-4, lr_target_kl=1e-4, clip_target_kl=1e-4, vf_clip_eps=0.2)
    return pp.make_ppo(ENV, plain(ENV), dataclasses.replace(CONFIG, num_devices=1)), h


def recurrent():
    """Two devices, a recurrent state, both running statistics, an adaptive penalty, episodes longer than a rollout."""
    env = chain(limit=20)
    changes = {"normalize_observations": True, "scale_rewards": True, "objective": "kl", "sequence_length": 4}
    config = dataclasses.replace(CONFIG, num_devices=2, **changes)
    network = pp.make_network(env, RECURRENT)
    return pp.make_ppo(env, network, config), Hyperparams(1e-2, beta_target_kl=1e-4, lr_anneal=0.0)


@pytest.mark.parametrize("make", [feed_forward, recurrent])
def test_a_restored_run_goes_on_bitwise(tmp_path, make):
    """Two updates, a file, and three updates in other chunks are five updates: state, metrics and hyperparameters."""
    algo, h = make()
    whole = list(pp.iterate(algo, pp.init_state(algo, jax.random.key(3), h), h, chunk=5))
    ((state, first),) = pp.iterate(algo, pp.init_state(algo, jax.random.key(3), h), h, num_updates=2, chunk=5)
    pp.save(tmp_path / "run", state, h, algo=algo)
    del state
    rest = list(pp.iterate(*pp.restore(tmp_path / "run", algo), chunk=5))
    assert bits(rest[-1][0]) == bits(whole[-1][0])
    together = jax.tree.map(lambda *x: np.concatenate(x), first, *(metrics for _, metrics in rest))
    assert bits(together) == bits(whole[-1][1])


def test_settings_that_differ_are_refused_with_a_list(tmp_path):
    algo = OddAlgorithm(Config(num_envs=2, num_epochs=3, total_timesteps=1000))
    pp.save(tmp_path / "c", odd_state(jax.random.key(0)), algo=algo)
    other = OddAlgorithm(dataclasses.replace(algo.config, num_epochs=4, total_timesteps=2000))
    with pytest.raises(CheckpointError) as caught:
        pp.restore(tmp_path / "c", other)
    assert "config.num_epochs = 4: it was 3\n" in str(caught.value)
    assert 'config.total_timesteps = 2000: it was 1000 (to change it, pass overrides=("total_timesteps",))' in str(
        caught.value
    )
    with pytest.raises(CheckpointError, match="num_epochs cannot be overridden"):
        pp.restore(tmp_path / "c", other, overrides=["num_epochs", "total_timesteps"])
    longer = OddAlgorithm(dataclasses.replace(algo.config, total_timesteps=2000))
    assert pp.restore(tmp_path / "c", longer, overrides=["total_timesteps"]).algo is longer
    with pytest.raises(CheckpointError, match="env = 'even': it was 'odd'"):
        pp.restore(tmp_path / "c", algo._replace(env=algo.env._replace(name="even")))


def test_settings_that_an_older_version_did_not_have_count_as_their_defaults():
    algo = OddAlgorithm()
    assert setting_problems({}, algo) == []
    assert setting_problems({"env": "", "config": {"num_envs": 2}}, algo) == []
    changed = OddAlgorithm(dataclasses.replace(algo.config, n_step=3))
    assert setting_problems({"env": "", "config": {"num_envs": 2}}, changed) == ["config.n_step = 3: it was 5"]


def test_without_the_settings_of_a_run_the_algorithm_must_be_given(tmp_path):
    pp.save(tmp_path / "c", odd_state(jax.random.key(0)))
    with pytest.raises(CheckpointError, match="pass the algorithm as well"):
        pp.restore(tmp_path / "c")
    for text in ("no toml [", 3):
        pp.save(tmp_path / "c", odd_state(jax.random.key(0)), details={"run": text})
        with pytest.raises(CheckpointError):
            pp.restore(tmp_path / "c")


def test_the_algorithm_is_built_from_the_settings_of_a_run(tmp_path):
    run = "env = 'CartPole-v1'\n[config]\nnum_envs = 4\nnum_steps = 8\n[network]\nhidden_sizes = [3]\n"
    built = pp.make_ppo(pp.make("CartPole-v1"), pp.mlp(pp.make("CartPole-v1"), (3,)), Config(num_envs=4, num_steps=8))
    shapes = jax.eval_shape(built.init, jax.random.key(0), Hyperparams())._replace(key=())
    state = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)._replace(key=jax.random.key(7))
    pp.save(tmp_path / "c", state, algo=built, details={"run": run})
    algo, restored, _ = pp.restore(tmp_path / "c")
    assert algo.config == built.config
    assert bits(restored) == bits(state)
