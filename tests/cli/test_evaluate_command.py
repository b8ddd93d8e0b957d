"""`purejaxppo evaluate` needs only the policy file, and names a file that cannot be used."""

import shutil

import jax
import pytest
from command_line import TINY, problems_of
from readable import readable

from purejaxppo._util.version import __version__
from purejaxppo.cli.main import dispatch, main
from purejaxppo.config.errors import ConfigError, UsageError
from purejaxppo.config.toml import dump_toml, parse_toml
from purejaxppo.training.loop import init_state
from purejaxppo.training.policy_file import save_policy
from purejaxppo.training.runs import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder with an untrained policy, as `train` writes it."""
    folder = tmp_path_factory.mktemp("run")
    run, _ = parse_toml(TINY)
    (folder / "config.toml").write_text(dump_toml(run))
    keep(folder, dump_toml(run))
    return folder


def keep(folder, config: str) -> None:
    run, _ = parse_toml(TINY)
    state = init_state(build(run), jax.random.key(0), run.hyperparams)
    texts = {"config": config} if config else {}
    save_policy(folder / "policy.safetensors", state, texts)


def test_the_policy_file_alone_is_enough(folder, tmp_path, capsys):
    file = shutil.copy(folder / "policy.safetensors", tmp_path / "renamed.safetensors")
    outputs = []
    for path in (folder, folder / "policy.safetensors", file):
        assert main(["evaluate", str(path), "--num-episodes", "4"]) == 0
        outputs.append(capsys.readouterr())
    assert len({output.out for output in outputs}) == 1
    assert {output.err for output in outputs} == {""}


@pytest.mark.parametrize(
    ("args", "problems"),
    [
        ([], {("RUN", "missing")}),
        (["--seed", "-1"], {("RUN", "missing"), ("--seed", "range")}),
        (["FOLDER", "--num-episodes", "0"], {("--num-episodes", "range")}),
        (["FOLDER", "--num-episodes", "1000000000"], {("--num-episodes", "range")}),
        (["FOLDER", "--greedy"], {("--greedy", "unknown")}),
        (["a\0b"], {("RUN", "type")}),
    ],
    ids=readable,
)
def test_every_problem_is_found(folder, args, problems):
    assert problems_of("evaluate", *(folder if arg == "FOLDER" else arg for arg in args)) == problems


def test_a_missing_file_is_named(tmp_path):
    expected = {(str(tmp_path / "policy.safetensors"), "file"), ("--num-episodes", "range")}
    assert problems_of("evaluate", tmp_path, "--num-episodes", "0") == expected


def test_a_damaged_file_is_named(folder, tmp_path):
    (tmp_path / "policy.safetensors").write_bytes((folder / "policy.safetensors").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"policy\.safetensors"):
        dispatch(["evaluate", str(tmp_path)])


def test_a_policy_without_its_settings_is_named(tmp_path):
    keep(tmp_path, "")
    with pytest.raises(UsageError, match="does not contain the settings"):
        dispatch(["evaluate", str(tmp_path)])


def test_an_error_in_settings_of_a_later_version_names_both_versions(folder, tmp_path):
    text = (folder / "config.toml").read_text()
    keep(tmp_path, text.replace(__version__, "9.9.9", 1).replace("num_epochs", "num_laps"))
    with pytest.raises(ConfigError, match=rf"written by purejaxppo 9\.9\.9; this is {__version__}") as caught:
        dispatch(["evaluate", str(tmp_path)])
    assert [(problem.key, problem.kind) for problem in caught.value.problems] == [("config.num_laps", "unknown")]


def test_an_edited_config_is_not_used_and_draws_a_warning(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace('"tanh"', '"relu"', 1).replace("num_epochs = ", "num_epochs = 1"))
    assert main(["evaluate", str(copy), "--num-episodes", "2"]) == 0
    warning = capsys.readouterr().err.splitlines()
    assert warning[0].startswith("purejaxppo: warning: ")
    assert warning[1:] == ["  network.activation = 'relu': the policy has 'tanh'"]


def test_an_evaluation_that_does_not_fit_the_memory_is_refused(monkeypatch, folder, capsys):
    monkeypatch.setenv("PUREJAXPPO_MEMORY", "1000")
    assert main(["evaluate", str(folder)]) == 3
    message = capsys.readouterr().err
    assert "parameters" in message
    assert "environment states" in message


def test_a_policy_with_parameters_that_are_nan_is_refused(tmp_path, capsys):
    run, _ = parse_toml(TINY)
    state = init_state(build(run), jax.random.key(0), run.hyperparams)
    state = state._replace(params=jax.tree.map(lambda x: x * float("nan"), state.params))
    save_policy(tmp_path / "policy.safetensors", state, {"config": dump_toml(run)})
    assert main(["evaluate", str(tmp_path), "--num-episodes", "2"]) == 2
    assert "parameters that are NaN" in capsys.readouterr().err


def test_the_best_policy_is_of_a_run_folder_that_has_one(folder):
    file = folder / "policy.safetensors"
    assert problems_of("evaluate", file, "--best") == {("--best", "conflict")}
    with pytest.raises(ConfigError, match="no best policy; train with --evaluate-every"):
        dispatch(["evaluate", str(folder), "--best"])
