"""TOML files are read with all problems; a written Run is read back unchanged."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo._util.version import __version__
from purejaxppo.config.checks import check
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.config.toml import dump_toml, load_toml, parse_tables, parse_toml, read_text


def problems_of(text: str) -> list[tuple[str, str]]:
    run, problems = parse_toml(text)
    try:
        check(run, problems)
    except ConfigError as error:
        return [(problem.key, problem.kind) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "key", "kind"),
    [
        ("[config]\nnum_env = 3", "config.num_env", "unknown"),
        ("sed = 3", "sed", "unknown"),
        ("[hyperparam]\ngamma = 0.9", "hyperparam", "unknown"),
        ("[config]\nlearning_rate = 1e-3", "config.learning_rate", "unknown"),
        ("[config]\nseed = 1", "config.seed", "unknown"),
        ("gamma = 0.9", "gamma", "unknown"),
        ("[config]\nnum_envs = 2.5", "config.num_envs", "type"),
        ("[config]\nnum_envs = true", "config.num_envs", "type"),
        ('[config]\nnum_envs = "64"', "config.num_envs", "type"),
        ("[config]\nscale_rewards = 1", "config.scale_rewards", "type"),
        ("[config]\nobjective = 7", "config.objective", "type"),
        ('[config]\nobjective = "clop"', "config.objective", "choice"),
        ('[hyperparams]\ngamma = "0.9"', "hyperparams.gamma", "type"),
        ("[hyperparams]\ngamma = false", "hyperparams.gamma", "type"),
        ("[hyperparams]\ngamma = nan", "hyperparams.gamma", "range"),
        ("[hyperparams]\nlearning_rate = inf", "hyperparams.learning_rate", "range"),
        (f"[hyperparams]\nlearning_rate = 1{'0' * 400}", "hyperparams.learning_rate", "range"),
        (f"[hyperparams]\nmax_grad_norm = 1{'0' * 400}", "hyperparams.max_grad_norm", "range"),
        (f"[config]\nnum_envs = 1{'0' * 400}", "config.num_envs", "range"),
        ("[network]\nhidden_sizes = [64, 0]", "network.hidden_sizes[1]", "range"),
        ("[network]\nhidden_sizes = 64", "network.hidden_sizes", "type"),
        ("[network]\nhidden_sizes = [64, true]", "network.hidden_sizes", "type"),
        ("seed = 4294967296", "seed", "range"),
        ("env = 3", "env", "type"),
        ("env_params = 3", "env_params", "type"),
        ("config = 3", "config", "type"),
    ],
)
def test_a_fault_is_named_by_its_key(text, key, kind):
    assert problems_of(text) == [(key, kind)]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[config]\nlearning_rate = 1e-3", "belongs in [hyperparams]"),
        ("[config]\nseed = 1", "belongs at the top of the file"),
        ("[hyperparams]\nlr = 1", "did you mean learning_rate?"),
        ("[config]\ntotal_timesteps = 1e6", "write 1000000"),
        ('[hyperparams]\ngamma = "0.9"', "write it without quotes"),
        ('[network]\nactivation = "ReLU"', 'did you mean "relu"?'),
    ],
)
def test_a_problem_says_what_to_write(text, advice):
    assert advice in parse_toml(text)[1][0].text


def test_a_name_unlike_any_setting_gets_no_suggestion():
    (problem,) = parse_toml("[config]\nquiet = true")[1]
    assert problem.text == ": no such key"


def test_a_round_trip_is_exact():
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


def test_an_integer_is_read_exactly():
    run, problems = parse_toml("[hyperparams]\nlearning_rate = 1\ngamma = 0")
    assert not problems
    assert run.hyperparams.learning_rate == 1.0
    assert isinstance(run.hyperparams.learning_rate, float)


def test_scalar_arrays_are_written_as_numbers_and_larger_ones_are_refused():
    run = Run(hyperparams=Hyperparams(gamma=jnp.float32(0.5)))
    assert parse_toml(dump_toml(run))[0].hyperparams.gamma == 0.5
    with pytest.raises(ConfigError) as caught:
        dump_toml(Run(hyperparams=Hyperparams(gamma=jnp.array([0.5, 0.6]))))
    assert [(p.key, p.kind) for p in caught.value.problems] == [("hyperparams.gamma", "type")]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"[config\n", "not valid TOML"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "not valid TOML"),  # Python's recursion limit
        (b"seed = " + b"9" * 5000, "not valid TOML"),  # Python's limit on the digits of an integer
        (b"\xff\xfe", "not a text file"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path, content, key):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_toml(path)
    assert [(p.key, p.kind) for p in caught.value.problems] == [(key, "file")]
    assert str(caught.value).startswith(str(path))


def test_a_path_with_a_nul_or_of_a_folder_is_one_problem(tmp_path):
    for path in ("a\0b.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            read_text(path)
        assert [p.key for p in caught.value.problems] == ["cannot be read"]


def test_a_file_is_loaded(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('env = "Acrobot-v1"\nseed = 3\n[config]\nnum_envs = 32\n[hyperparams]\nent_coef = 0.01\n')
    expected = Run("Acrobot-v1", {}, 3, Config(num_envs=32), hyperparams=Hyperparams(ent_coef=0.01))
    assert load_toml(path) == expected


def test_the_version_that_wrote_a_file_is_named_if_it_is_another_one(tmp_path):
    path = tmp_path / "x.toml"
    text = dump_toml(Run()).replace("num_envs", "num_worlds")
    for version in (__version__, "9.9.9"):
        path.write_text(text.replace(__version__, version, 1))
        with pytest.raises(ConfigError) as caught:
            load_toml(path)
        assert ("9.9.9" in str(caught.value)) == (version == "9.9.9")
    assert f"(written by purejaxppo 9.9.9; this is {__version__})" in str(caught.value)


def test_a_text_is_named_by_its_source():
    with pytest.raises(ConfigError, match=r"^here: 1 problem"):
        parse_tables("[", "here")
