"""Settings: every fault is found, all of them at once, and named with what to write instead."""

import dataclasses
import math
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo._util.text import nearest
from purejaxppo.config.checks import INTERVALS, check, check_parts, find_problems
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import TABLES, Config, Hyperparams, NetworkConfig, Run
from purejaxppo.config.toml import dump_toml, load_toml, parse_toml
from purejaxppo.functional.objectives import OBJECTIVES


def said(text: str) -> str:
    """The message for a TOML text; the empty string where nothing is wrong."""
    run, problems = parse_toml(text)
    try:
        check(run, problems)
    except ConfigError as error:
        return str(error)
    return ""


# ---- single values


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[config]\nnum_env = 3", ["config.num_env", "did you mean num_envs?"]),
        ("[hyperparams]\nlearningrate = 1e-3", ["did you mean learning_rate?"]),
        ("[network]\nhidden = [8]", ["did you mean hidden_sizes?"]),
        ("sed = 3", ["sed", "did you mean seed?"]),
        ("[hyperparam]\ngamma = 0.9", ["hyperparam", "did you mean hyperparams?"]),
        ("[config]\nlearning_rate = 1e-3", ["config.learning_rate", "belongs in [hyperparams]"]),
        ("gamma = 0.9", ["gamma", "belongs in [hyperparams]"]),
        ("[config]\nseed = 1", ["config.seed", "at the top of the file"]),
        ("[config]\nnum_envs = 2.5", ["config.num_envs = 2.5", "expected an integer, got a float"]),
        ("[config]\ntotal_timesteps = 1e6", ["got a float; write 1000000"]),
        ("[config]\nnum_envs = true", ["config.num_envs = true", "expected an integer, got a boolean"]),
        ('[config]\nnum_envs = "64"', ['config.num_envs = "64"', "got a string"]),
        ("[config]\nscale_rewards = 1", ["expected true or false, got an integer"]),
        ("[config]\nobjective = 7", ["config.objective = 7", "clip, kl, cpi, none"]),
        ('[config]\nobjective = "clop"', ['"clop"', 'did you mean "clip"?']),
        ('[network]\nactivation = "ReLU"', ['did you mean "relu"?']),
        ('[hyperparams]\ngamma = "0.9"', ["expected a number, got a string; write it without quotes"]),
        ("[hyperparams]\ngamma = false", ["expected a number, got a boolean"]),
        ("[hyperparams]\ngamma = nan", ["hyperparams.gamma = nan", "between 0 and 1"]),
        ("[hyperparams]\ngamma = 1.5", ["hyperparams.gamma = 1.5", "nearest valid value: 1"]),
        ("[hyperparams]\nlearning_rate = -1e-3", ["at least 0 and finite", "nearest valid value: 0"]),
        ("[hyperparams]\nlearning_rate = inf", ["at least 0 and finite"]),
        ("[hyperparams]\nclip_eps = 0", ["above 0"]),
        ("[hyperparams]\ndual_clip = 1.0", ["above 1"]),
        ("[hyperparams]\nadam_b1 = 1.0", ["at least 0 and below 1"]),
        ("[config]\nnum_envs = 0", ["between 1 and 2147483647", "nearest valid value: 1"]),
        (f"[config]\nnum_envs = 1{'0' * 400}", ["nearest valid value: 2147483647"]),
        ("[network]\nhidden_sizes = [64, 0]", ["network.hidden_sizes[1] = 0", "nearest valid value: 1"]),
        ("[network]\nhidden_sizes = 64", ["expected a list of integers"]),
        ("[network]\nhidden_sizes = [64, true]", ["expected a list of integers"]),
        ("seed = -1", ["seed = -1", "nearest valid value: 0"]),
        ("seed = 4294967296", ["nearest valid value: 4294967295"]),
        ("env = 3", ["env = 3", "expected a string"]),
        ("env_params = 3", ["env_params = 3", "a table [env_params]"]),
        ("config = 3", ["config = 3", "a table [config]"]),
    ],
)
def test_a_fault_is_named_with_what_to_write(text, parts):
    message = said(text)
    assert message.startswith("1 problem in the settings\n")
    for part in parts:
        assert part in message


@pytest.mark.parametrize("key", [key for key in INTERVALS if not key.endswith("hidden_sizes")])
def test_every_interval_holds_its_ends_and_nothing_beyond(key):
    table, _, name = key.rpartition(".")
    interval = INTERVALS[key]
    low, high = (float(x) for x in interval[1:-1].split(","))
    whole = get_type_hints(TABLES[table] if table else Run)[name] is int

    def accepted(value: float) -> bool:
        value = int(value) if whole and math.isfinite(value) else value
        found = find_problems(**{table: replaced(TABLES[table](), name, value)}) if table else run_problems(value)
        return not any(problem.key == key and ": must " in problem.text for problem in found)

    step = 1.0 if whole else 1e-9
    assert accepted(low) == (interval[0] == "[")
    assert accepted(high) == (interval[-1] == "]")
    assert not accepted(low - step)
    assert math.isinf(high) or not accepted(high + step)
    assert accepted(low + step)
    assert whole or not accepted(math.nan)


def replaced(table, name, value):
    if isinstance(table, tuple):
        return table._replace(**{name: value})
    return dataclasses.replace(table, **{name: value})


def run_problems(seed):
    try:
        check(Run(seed=seed))
    except ConfigError as error:
        return error.problems
    return ()


def test_every_number_has_its_interval():
    for name, cls in TABLES.items():
        numbers = {f"{name}.{key}" for key, hint in get_type_hints(cls).items() if hint in (int, float)}
        assert numbers <= INTERVALS.keys()


def test_an_integer_is_a_number_too():
    run, problems = parse_toml("[hyperparams]\nlearning_rate = 1\ngamma = 0")
    assert not problems
    assert run.hyperparams[:1] == (1.0,)
    assert isinstance(run.hyperparams.learning_rate, float)
    check_parts(hyperparams=Hyperparams(gamma=1))
    check_parts(Config(num_envs=np.int64(64)))


def test_inf_switches_limits_off():
    off = [key.split(".")[1] for key, interval in INTERVALS.items() if interval.endswith("inf]")]
    assert "max_grad_norm" in off
    check_parts(hyperparams=Hyperparams()._replace(**dict.fromkeys(off, math.inf)))


def test_choices_name_what_exists():
    hints = get_type_hints(Config)
    assert set(get_args(hints["objective"])) == OBJECTIVES.keys()
    assert nearest("Pendulm", ["Pendulum-v1", "CartPole-v1"]) == ["Pendulum-v1"]


# ---- what must fit together


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@pytest.mark.parametrize(("num_envs", "num_steps", "m"), [(64, 128, 3), (63, 128, 1000), (10, 7, 4), (3, 5, 100)])
def test_minibatches_must_share_out_the_rollout_and_the_nearest_numbers_are_named(num_envs, num_steps, m):
    config = Config(num_envs=num_envs, num_steps=num_steps, num_minibatches=m)
    (problem,) = find_problems(config)
    batch = num_envs * num_steps
    valid = [d for d in divisors(batch) if d < batch]  # one sample each would leave nothing to normalise
    below, above = [d for d in valid if d < m][-1:], [d for d in valid if d > m][:1]
    assert problem.key == "config.num_minibatches"
    assert f"nearest valid values: {' or '.join(map(str, below + above))} " in problem.text
    envs = [n for n in range(1, 2000) if n * num_steps % m == 0]
    below, above = [n for n in envs if n < num_envs][-1:], [n for n in envs if n > num_envs][:1]
    assert f"(or num_envs = {' or '.join(map(str, below + above))})" in problem.text
    for nearby in [int(word) for word in problem.text.split("values: ")[1].split(" (")[0].split(" or ")]:
        assert not find_problems(dataclasses.replace(config, num_minibatches=nearby, normalize_advantages=False))


def test_recurrent_minibatches_share_out_whole_sequences():
    config = Config(num_envs=6, num_steps=8, num_minibatches=4)
    assert not find_problems(config)
    assert find_problems(config, recurrent=True)[0].key == "config.num_minibatches"
    assert find_problems(config, NetworkConfig(kind="gru"))
    assert not find_problems(dataclasses.replace(config, sequence_length=4), NetworkConfig(kind="lstm"))


def test_sequences_must_share_out_the_steps():
    (problem,) = find_problems(Config(num_steps=128, sequence_length=7))
    assert problem.key == "config.sequence_length"
    assert "nearest valid values: 4 or 8" in problem.text


def test_a_run_holds_at_least_one_update():
    (problem,) = find_problems(Config(total_timesteps=8191))
    assert "nearest valid value: 8192" in problem.text
    assert not find_problems(Config(total_timesteps=8192))
    assert Config(total_timesteps=8192).num_updates == 1
    assert Config(total_timesteps=3 * 8192 - 1).num_updates == 2


def test_one_sample_cannot_be_normalised():
    config = Config(num_envs=2, num_steps=4, num_minibatches=8, total_timesteps=80)
    assert "at most 4, or normalize_advantages = false" in find_problems(config)[0].text
    assert not find_problems(dataclasses.replace(config, normalize_advantages=False))


def test_a_rollout_can_be_counted_in_32_bits():
    (problem,) = find_problems(Config(num_envs=2**24, num_steps=128, total_timesteps=2**40))
    assert f"at most {(2**31 - 1) // 128}" in problem.text


# ---- all at once


def test_all_problems_come_in_one_message():
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
        check(run, [*problems, Problem("env", ": not here")], "bad.toml")
    error = caught.value
    keys = {problem.key for problem in error.problems}
    expected = {"num_envs", "config.num_stepz", "config.num_minibatches", "config.objective", "network.kind"}
    expected |= {"config.total_timesteps", "hyperparams.gamma", "hyperparams.clip_eps", "env"}
    assert keys == expected
    assert str(error).startswith("bad.toml: 9 problems\n")
    assert len(str(error).splitlines()) == 10


def test_what_follows_from_a_faulty_value_is_not_reported():
    message = said("[config]\nnum_envs = 0\nnum_minibatches = 3")
    assert "num_minibatches" not in message
    message = said("[config]\nnum_envs = 2.5\nnum_minibatches = 3")
    assert "num_minibatches" not in message


# ---- traced values


def test_arrays_are_checked_element_by_element():
    with pytest.raises(ConfigError, match=r"hyperparams\.gamma\[1\] = 1\.5"):
        check_parts(hyperparams=Hyperparams(gamma=jnp.array([0.9, 1.5])))
    check_parts(hyperparams=Hyperparams(gamma=jnp.array([0.9, 1.0]), learning_rate=np.float32(1e-3)))
    with pytest.raises(ConfigError, match="expected a number"):
        check_parts(hyperparams=Hyperparams(gamma=jnp.array(True)))
    with pytest.raises(ConfigError, match="an empty array"):
        check_parts(hyperparams=Hyperparams(gamma=np.zeros(0)))


def test_traced_values_pass_and_their_concrete_neighbours_are_still_checked():
    def f(gamma, clip_eps):
        check_parts(Config(), NetworkConfig(), Hyperparams(gamma=gamma, clip_eps=clip_eps))
        return gamma

    assert jax.jit(f, static_argnums=1)(7.0, 0.2) == 7.0
    assert jax.vmap(lambda gamma: f(gamma, 0.2))(jnp.array([7.0, 8.0])).tolist() == [7.0, 8.0]
    check_parts(hyperparams=Hyperparams(gamma=jax.ShapeDtypeStruct((), jnp.float32)))
    with pytest.raises(ConfigError, match="clip_eps"):
        jax.jit(f, static_argnums=1)(0.9, -1.0)


@pytest.mark.parametrize("parts", [{"config": Hyperparams()}, {"hyperparams": Config()}, {"network": Config()}])
def test_static_for_traced_is_a_type_error(parts):
    with pytest.raises(TypeError, match="must be a"):
        check_parts(**parts)


def test_static_settings_are_hashable_and_frozen():
    assert hash(Config()) == hash(Config())
    assert hash(NetworkConfig()) == hash(NetworkConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().num_envs = 3


# ---- TOML


def test_toml_round_trip_is_exact():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = {name: float(rng.uniform(0.01, 0.99)) for name in Hyperparams._fields}
        run = Run(
            env="Pendulum-v1",
            env_params={"dt": 0.05, "names": ["a", "b"], "deep": {"x": 1}},
            seed=int(rng.integers(2**32)),
            config=Config(num_envs=int(rng.integers(1, 99)), scale_rewards=bool(rng.integers(2)), objective="kl"),
            network=NetworkConfig(hidden_sizes=tuple(map(int, rng.integers(1, 99, 3))), log_std_init=-0.1),
            hyperparams=Hyperparams(**values)._replace(dual_clip=math.inf),
        )
        assert parse_toml(dump_toml(run)) == (run, [])
    assert parse_toml(dump_toml(Run())) == (Run(), [])
    assert parse_toml("") == (Run(), [])


def test_scalar_arrays_are_written_as_numbers_and_batches_are_refused():
    run = Run(hyperparams=Hyperparams(gamma=jnp.float32(0.5)))
    assert parse_toml(dump_toml(run))[0].hyperparams.gamma == 0.5
    with pytest.raises(ConfigError, match=r"hyperparams\.gamma"):
        dump_toml(Run(hyperparams=Hyperparams(gamma=jnp.array([0.5, 0.6]))))


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"[config\n", "not valid TOML"), (b"\xff\xfe", "not a text file"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path, content, part):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=part) as caught:
        load_toml(path)
    assert str(path) in str(caught.value)


def test_a_file_is_loaded_as_it_says(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('env = "Acrobot-v1"\nseed = 3\n[config]\nnum_envs = 32\n[hyperparams]\nent_coef = 0.01\n')
    run = load_toml(path)
    assert (run.env, run.seed, run.config.num_envs, run.hyperparams.ent_coef) == ("Acrobot-v1", 3, 32, 0.01)
    assert dataclasses.replace(run.config, num_envs=64) == Config()


def test_trpo_needs_a_critic_of_its_own():
    shared = NetworkConfig(shared_torso=True)
    with pytest.raises(ConfigError, match=r"network\.shared_torso = true"):
        check_parts(Config(policy_step="trpo"), shared)
    check_parts(Config(policy_step="trpo"), NetworkConfig())
    check_parts(Config(), shared)
