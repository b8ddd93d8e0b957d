"""A resumed run equals the uninterrupted one bitwise, and refuses settings that would change it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import chain
from slow import slow_except
from states import OddAlgorithm, bits, odd_state

import purejaxppo as pp
from purejaxppo import CheckpointError, Config, ConfigError, Hyperparams, NetworkConfig
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml
from purejaxppo.training.checkpoint_folder import save_in_run
from purejaxppo.training.resume import TUNABLE, open_run, setting_problems, settle

CONFIG = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=32 * 5)
ENV = chain(limit=6)
RECURRENT = NetworkConfig(kind="gru", hidden_sizes=(4,), rnn_size=4)


def feed_forward():
    """Make an algorithm with every KL control, an early stop, and an annealed learning rate."""
    h = Hyperparams(1e-2, target_kl=1e-4, lr_target_kl=1e-4, clip_target_kl=1e-4, vf_clip_eps=0.2)
    return pp.make_ppo(ENV, plain(ENV), dataclasses.replace(CONFIG, num_devices=1)), h


def recurrent():
    """Make an algorithm with two devices, a recurrent state, running statistics, adaptive β, and long episodes."""
    env = chain(limit=20)
    changes = {"normalize_observations": True, "scale_rewards": True, "objective": "kl", "sequence_length": 4}
    config = dataclasses.replace(CONFIG, num_devices=2, **changes)
    network = pp.make_network(env, RECURRENT)
    return pp.make_ppo(env, network, config), Hyperparams(1e-2, beta_target_kl=1e-4, lr_anneal=0.0)


@pytest.mark.parametrize("make", slow_except([feed_forward, recurrent], feed_forward))
def test_a_restored_run_continues_bitwise(tmp_path, make):
    """Two updates, a checkpoint, and three updates in other chunks equal five updates in state and metrics."""
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


# ---- runs of the command line


RUN = Run(config=Config(num_envs=2), hyperparams=Hyperparams(learning_rate=1e-3))
DETAILS = {"metrics_bytes": 100, "seconds": 2.5, "overrides": []}


def saved_run(folder, settings=RUN, num_updates=7, **details):
    state = odd_state(jax.random.key(0))._replace(num_updates=jnp.int32(num_updates))
    details = {"run": dump_toml(settings), **DETAILS, **details}
    save_in_run(folder, state, settings.hyperparams, OddAlgorithm(settings.config), details)
    return open_run(folder)


def changed(run, **settings):
    config = {name: value for name, value in settings.items() if name in TUNABLE or name == "num_epochs"}
    rest = {name: value for name, value in settings.items() if name not in config}
    return dataclasses.replace(
        run, config=dataclasses.replace(run.config, **config), hyperparams=run.hyperparams._replace(**rest)
    )


def test_equal_settings_continue_unchanged(tmp_path):
    saved = saved_run(tmp_path)
    assert (saved.run, saved.metrics_bytes, saved.seconds, saved.manifest.num_updates) == (RUN, 100, 2.5, 7)
    assert settle(saved, RUN, set()) == (RUN, ())


def test_structural_settings_cannot_change_not_even_as_options(tmp_path):
    saved = saved_run(tmp_path)
    other = dataclasses.replace(changed(RUN, num_epochs=9), env="Pendulum-v1", seed=5)
    with pytest.raises(ConfigError) as caught:
        settle(saved, other, {"config.num_epochs", "env", "seed"})
    assert [problem.key for problem in caught.value.problems] == ["config.num_epochs", "env", "seed"]
    assert {problem.kind for problem in caught.value.problems} == {"conflict"}
    assert "it was 'CartPole-v1'" in str(caught.value)


def test_a_tunable_setting_changes_only_by_an_option_and_is_recorded(tmp_path):
    saved = saved_run(tmp_path)
    other = changed(RUN, learning_rate=2e-3, total_timesteps=900_000)
    with pytest.raises(ConfigError) as caught:
        settle(saved, other, {"config.total_timesteps"})
    (problem,) = caught.value.problems
    assert problem.key == "hyperparams.learning_rate"
    assert "pass --hyperparams.learning-rate 0.002" in problem.text
    run, overrides = settle(saved, other, {"config.total_timesteps", "hyperparams.learning_rate"})
    assert run == other
    assert overrides == (
        {"update": 7, "setting": "config.total_timesteps", "old": 500_000, "new": 900_000},
        {"update": 7, "setting": "hyperparams.learning_rate", "old": 1e-3, "new": 2e-3},
    )


def test_config_toml_may_keep_an_overridden_setting_and_an_option_may_reset_it(tmp_path):
    other = changed(RUN, learning_rate=2e-3, target_kl=0.1)
    before = [{"update": 3, "setting": "hyperparams.learning_rate", "old": 1e-3, "new": 2e-3}]
    before += [{"update": 3, "setting": "hyperparams.target_kl", "old": "inf", "new": 0.1}]
    saved = saved_run(tmp_path, other, overrides=before)
    assert settle(saved, RUN, set()) == (other, tuple(before))
    run, overrides = settle(saved, RUN, {"hyperparams.learning_rate", "hyperparams.target_kl"})
    assert run == RUN
    assert [override["new"] for override in overrides] == [2e-3, 0.1, 1e-3, "inf"]
    saved_run(tmp_path, run, overrides=list(overrides))
    with pytest.raises(ConfigError):
        settle(saved, changed(RUN, learning_rate=3e-3), set())


@pytest.mark.parametrize(
    "details",
    [{"metrics_bytes": -1}, {"metrics_bytes": "1"}, {"seconds": None}, {"overrides": {}}, {"run": "seed = -1"}],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path, details):
    with pytest.raises(CheckpointError):
        saved_run(tmp_path, **details)


def test_a_checkpoint_is_not_a_run_folder(tmp_path):
    saved = saved_run(tmp_path)
    with pytest.raises(CheckpointError, match="not a run folder"):
        open_run(saved.checkpoint)
