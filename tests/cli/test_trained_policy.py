"""A run folder or a file means a policy file, and the file means settings, algorithm and policy."""

import jax
import numpy as np
import pytest
from command_line import TINY

from purejaxppo.cli.trained_policy import file_problems, open_policy, policy_file, read_settings
from purejaxppo.config.errors import UsageError
from purejaxppo.config.toml import dump_toml, parse_toml
from purejaxppo.training.loop import init_state
from purejaxppo.training.policy_file import save_policy
from purejaxppo.training.runs import build


def test_a_folder_means_its_last_policy_and_a_file_itself(tmp_path):
    assert policy_file(tmp_path, False) == tmp_path / "policy.safetensors"
    assert policy_file(tmp_path, True) == tmp_path / "best.safetensors"
    file = tmp_path / "renamed"
    file.touch()
    assert policy_file(file, False) == file
    assert file_problems(file, False) == []


def test_a_policy_that_is_not_there_is_one_problem(tmp_path):
    (tmp_path / "file").touch()
    kinds = [[(p.key, p.kind) for p in file_problems(run, True)] for run in (tmp_path / "file", tmp_path)]
    assert kinds == [[("--best", "conflict")], [(str(tmp_path / "best.safetensors"), "file")]]
    assert "no such file" in file_problems(tmp_path, True)[0].text
    (tmp_path / "config.toml").touch()
    assert "--evaluate-every" in file_problems(tmp_path, True)[0].text


def test_a_file_has_its_settings_and_its_policy(tmp_path):
    run, _ = parse_toml(TINY)
    state = init_state(build(run), jax.random.key(0), run.hyperparams)
    save_policy(tmp_path / "policy", state, {"config": dump_toml(run)})
    assert read_settings(tmp_path / "policy")[0] == run
    found, algo, policy = open_policy(tmp_path / "policy")
    assert found == run
    assert algo.env.name == "CartPole-v1"
    jax.tree.map(np.testing.assert_array_equal, policy.params, state.params)
    save_policy(tmp_path / "bare", state)
    with pytest.raises(UsageError, match="does not contain the settings"):
        read_settings(tmp_path / "bare")
    (tmp_path / "damaged").write_bytes(b"?")
    with pytest.raises(UsageError, match="damaged"):
        open_policy(tmp_path / "damaged")
