"""Combinations of settings: what must fit together, every problem at once, and settings without effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from plain_net import plain
from slow import slow_except

from purejaxppo import make_ppo, train
from purejaxppo.config.checks import INT32_MAX, check, check_settings, find_problems, ignored_changes, ignored_settings
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.config.toml import parse_toml
from purejaxppo.envs.auto_reset import RESETS
from purejaxppo.functional.bindings import OBJECTIVES


def keys_of(problems) -> list[tuple[str, str]]:
    return [(problem.key, problem.kind) for problem in problems]


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


# ---- settings that must fit together


@pytest.mark.parametrize(("num_envs", "num_steps", "m"), [(64, 128, 3), (63, 128, 1000), (10, 7, 4), (3, 5, 100)])
def test_minibatches_must_divide_the_rollout_and_the_nearest_values_are_named(num_envs, num_steps, m):
    config = Config(num_envs=num_envs, num_steps=num_steps, num_minibatches=m)
    (problem,) = find_problems(config)
    batch = num_envs * num_steps
    valid = [d for d in divisors(batch) if d < batch]  # minibatches of one sample cannot be normalized
    below, above = [d for d in valid if d < m][-1:], [d for d in valid if d > m][:1]
    assert (problem.key, problem.kind) == ("config.num_minibatches", "conflict")
    nearby = below + above
    assert f": {' or '.join(map(str, nearby))} (or num_envs" in problem.text
    envs = [n for n in range(1, 2000) if n * num_steps % m == 0]
    below, above = [n for n in envs if n < num_envs][-1:], [n for n in envs if n > num_envs][:1]
    assert f"(or num_envs = {' or '.join(map(str, below + above))})" in problem.text
    for value in nearby:
        assert not find_problems(dataclasses.replace(config, num_minibatches=value, normalize_advantages=False))


def test_recurrent_minibatches_hold_whole_sequences():
    config = Config(num_envs=6, num_steps=8, num_minibatches=4)
    assert not find_problems(config)
    assert keys_of(find_problems(config, recurrent=True)) == [("config.num_minibatches", "conflict")]
    assert find_problems(config, NetworkConfig(kind="gru"))
    assert not find_problems(dataclasses.replace(config, sequence_length=4), NetworkConfig(kind="lstm"))


def test_sequences_must_divide_the_steps():
    (problem,) = find_problems(Config(num_steps=128, sequence_length=7))
    assert (problem.key, problem.kind) == ("config.sequence_length", "conflict")
    assert problem.text.endswith("4 or 8")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"burn_in": 2}, "mlp"), ({"burn_in": 2}, "gru"), ({"burn_in": 9, "sequence_length": 8}, "gru")],
)
def test_burn_in_needs_a_recurrent_network_and_steps_before_a_sequence(changes, kind):
    assert keys_of(find_problems(Config(**changes), NetworkConfig(kind=kind))) == [("config.burn_in", "conflict")]
    assert not find_problems(Config(burn_in=8, sequence_length=8), NetworkConfig(kind="gru"))


def test_a_run_has_at_least_one_update():
    (problem,) = find_problems(Config(total_timesteps=8191))
    assert (problem.key, problem.kind) == ("config.total_timesteps", "conflict")
    assert problem.text.endswith(": 8192")
    assert not find_problems(Config(total_timesteps=8192))


def test_the_updates_of_a_run_can_be_counted_in_32_bits():
    """Otherwise the schedule would wrap around, or the count of updates would overflow."""
    size = Config().timesteps_per_update
    assert not find_problems(Config(num_envs=1, num_steps=2, num_minibatches=1, total_timesteps=2 * INT32_MAX + 1))
    for config in (
        Config(total_timesteps=10**15, num_envs=4, num_steps=32),
        Config(num_envs=1, num_steps=2, num_minibatches=1, total_timesteps=2 * INT32_MAX + 2),
    ):
        (problem,) = find_problems(config)
        assert (problem.key, problem.kind) == ("config.total_timesteps", "conflict")
        assert problem.text.endswith(f": {INT32_MAX * config.timesteps_per_update}")
    assert find_problems(Config(total_timesteps=INT32_MAX * size)) == []


def test_a_rollout_can_be_counted_in_32_bits():
    (problem,) = find_problems(Config(num_envs=2**24, num_steps=128, total_timesteps=2**40))
    assert (problem.key, problem.kind) == ("config.num_envs", "conflict")
    assert problem.text.endswith(f": {(2**31 - 1) // 128}")


def test_minibatches_of_one_sample_cannot_be_normalized():
    config = Config(num_envs=2, num_steps=4, num_minibatches=8, total_timesteps=80)
    assert "at most 4, or normalize_advantages = false" in find_problems(config)[0].text
    assert not find_problems(dataclasses.replace(config, normalize_advantages=False))


def test_no_more_states_of_a_pool_are_replaced_than_it_has():
    (problem,) = find_problems(Config(pool_size=8, pool_refresh=9))
    assert (problem.key, problem.kind) == ("config.pool_refresh", "conflict")
    assert problem.text.endswith("pool_size = 8; nearest valid value: 8")
    assert not find_problems(Config(pool_size=8, pool_refresh=8))
    assert not find_problems(Config(pool_refresh=0))
    assert keys_of(find_problems(Config(pool_refresh=-1))) == [("config.pool_refresh", "range")]
    assert keys_of(find_problems(Config(pool_size=0, pool_refresh=3))) == [("config.pool_size", "range")]


def test_trpo_needs_a_separate_critic_and_has_its_own_objective():
    trpo = Config(policy_step="trpo")
    assert keys_of(find_problems(trpo, NetworkConfig(shared_torso=True))) == [("network.shared_torso", "conflict")]
    assert keys_of(find_problems(dataclasses.replace(trpo, objective="kl"))) == [("config.objective", "conflict")]
    assert not find_problems(trpo, NetworkConfig())
    assert not find_problems(Config(objective="kl"), NetworkConfig(shared_torso=True))


# ---- all problems at once


def test_all_problems_come_in_one_error():
    text = """
    env = "CartPole-v1"
    num_envs = 8
    [config]
    num_stepz = 3
    num_minibatches = 3
    objective = "klip"
    total_timesteps = 5
    [network]
    kind = "mpl"
    [hyperparams]
    gamma = nan
    clip_eps = "x"
    """
    run, problems = parse_toml(text)
    with pytest.raises(ConfigError) as caught:
        check(run, [*problems, Problem("env", ": not here", "environment")], "bad.toml")
    assert set(keys_of(caught.value.problems)) == {
        ("num_envs", "unknown"),
        ("config.num_stepz", "unknown"),
        ("config.num_minibatches", "conflict"),
        ("config.objective", "choice"),
        ("config.total_timesteps", "conflict"),
        ("network.kind", "choice"),
        ("hyperparams.gamma", "range"),
        ("hyperparams.clip_eps", "type"),
        ("env", "environment"),
    }


@pytest.mark.parametrize("value", ["0", "2.5"])
def test_problems_caused_by_a_default_are_not_reported(value):
    run, problems = parse_toml(f"[config]\nnum_envs = {value}\nnum_minibatches = 3")
    with pytest.raises(ConfigError) as caught:
        check(run, problems)
    assert [problem.key for problem in caught.value.problems] == ["config.num_envs"]


@pytest.mark.parametrize("tables", [{"config": Hyperparams()}, {"hyperparams": Config()}, {"network": Config()}])
def test_static_for_traced_is_a_type_error(tables):
    with pytest.raises(TypeError, match="must be a"):
        check_settings(**tables)


# ---- settings without effect

ENV = probes.chain(limit=6)
SMALL = Config(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=64)


@pytest.mark.parametrize(
    "change", slow_except([{}, {"objective": "kl"}, {"objective": "cpi"}, {"policy_step": "trpo"}], {})
)
def test_ignored_hyperparameters_change_nothing_and_the_others_do(change):
    """Two updates under every setting: the parameters are bitwise the same exactly for the ignored settings.

    Controls with infinite targets and value clipping have no effect unless they are on, so they are compared at finite
    values.
    """
    config = dataclasses.replace(SMALL, **change)
    ignored = ignored_settings(config, NetworkConfig())
    base = Hyperparams(ent_coef=0.01, learning_rate=0.05, vf_clip_eps=0.1, target_kl=1.0)
    base = base._replace(beta_target_kl=1.0, lr_target_kl=1.0, clip_target_kl=1.0, dual_clip=2.0)
    factors = np.ones((1 + len(base), len(base)), np.float32)
    factors[1:][np.eye(len(base), dtype=bool)] = 1e-3
    for name in ("adam_eps", "trpo_damping"):
        factors[1 + base._fields.index(name), base._fields.index(name)] = 1e3
    factors[1 + base._fields.index("dual_clip"), base._fields.index("dual_clip")] = 0.51
    settings = Hyperparams(*(jnp.asarray(f * x, jnp.float32) for f, x in zip(factors.T, base, strict=True)))
    algo = make_ppo(ENV, plain(ENV), config)
    states, _ = jax.vmap(lambda h: train(algo, jax.random.key(0), h))(settings)
    flat = np.concatenate([np.asarray(x).reshape(len(factors), -1) for x in jax.tree.leaves(states.params)], axis=1)
    same = {name for name, row in zip(base._fields, flat[1:], strict=True) if np.array_equal(row, flat[0])}
    assert same == {name for name in base._fields if f"hyperparams.{name}" in ignored}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_reads_the_hyperparameters_that_are_not_ignored(objective):
    """TRPO has no objective; its step does not read these hyperparameters either."""
    change = {"policy_step": "trpo"} if objective == "none" else {"objective": objective}
    ignored = ignored_settings(dataclasses.replace(SMALL, **change), NetworkConfig())
    ratio, advantage = jnp.array([0.5, 1.3, 5.0, 1.3]), jnp.array([-1.0, 1.0, -1.0, -1.0])
    base = jax.tree.map(np.float32, Hyperparams(dual_clip=2.0))

    def surrogates(h):
        return np.asarray(OBJECTIVES[objective](ratio, advantage, 0.1 * ratio, h))

    read = {
        name
        for name, x in base._asdict().items()
        if not np.array_equal(surrogates(base), surrogates(base._replace(**{name: np.float32(0.6) * x})))
    }
    own = {"clip_eps", "clip_asymmetry", "dual_clip", "beta"}
    assert read == {name for name in own if f"hyperparams.{name}" not in ignored}


def test_ignored_settings_depend_on_the_functions_that_read_them():
    every = ignored_settings(Config(), NetworkConfig(), continuous=False)
    assert {"config.n_step", "config.sequence_length", "network.rnn_size", "network.log_std_init"} <= every.keys()
    assert "hyperparams.beta" in every
    assert "hyperparams.beta" not in ignored_settings(Config(), own=("objective",))
    assert "hyperparams.value_lambda" not in ignored_settings(Config(), own=("target_fn",))
    assert "config.n_step" not in ignored_settings(Config(targets="n_step"))
    assert "config.sequence_length" not in ignored_settings(Config(), NetworkConfig(kind="lru"))
    assert "config.sequence_length" not in ignored_settings(Config())  # of the network nothing is known
    assert "config.sequence_length" in ignored_settings(Config(), recurrent=False)
    assert "network.log_std_init" not in ignored_settings(Config(), NetworkConfig(), continuous=True)
    assert "network.encoder" in ignored_settings(Config(), NetworkConfig(kind="cnn"))
    assert "config.recompute_advantages" in ignored_settings(Config(num_epochs=1))
    pool = {"config.pool_size", "config.pool_refresh"}
    ignored = {mode: pool & ignored_settings(Config(resets=mode)).keys() for mode in ("auto", *RESETS)}
    assert ignored == {
        "auto": set(),
        "fresh": pool,
        "every_step": pool,
        "pool": {"config.pool_refresh"},
        "state_pool": set(),
    }
    assert "hyperparams.reward_clip" not in ignored_settings(Config(scale_rewards=True))
    assert "network.critic_activation" in ignored_settings(Config(), NetworkConfig(shared_torso=True))
    assert "network.embedding_size" not in ignored_settings(Config(), NetworkConfig(symbols="embedding"))


def test_only_changed_settings_draw_a_warning():
    run = Run(config=Config(n_step=7), network=NetworkConfig(rnn_size=128), hyperparams=Hyperparams(beta=2.0))
    lines = ignored_changes(run, ignored_settings(run.config, run.network))
    assert [line.split(" ")[0] for line in lines] == ["hyperparams.beta", "config.n_step"]
    assert ignored_changes(Run(), ignored_settings(Config(), NetworkConfig(), continuous=False)) == []
