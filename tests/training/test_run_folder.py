"""A run folder must be new or empty, and no two runs claim the same one."""

import re

import pytest

from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import load_toml
from purejaxppo.training.run_folder import claim_folder, folder_problems


def keys(out) -> list[tuple[str, str]]:
    return [(problem.key, problem.kind) for problem in folder_problems(out)]


def test_new_and_empty_folders_can_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (None, tmp_path / "empty", tmp_path / "new", tmp_path / "deep" / "er"):
        assert keys(out) == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "part"), [("config.toml", "holds another run"), ("thesis.tex", "is not empty")])
def test_a_folder_with_something_in_it_is_refused(tmp_path, name, part):
    (tmp_path / name).write_text("precious")
    assert keys(tmp_path) == [("--out", "file")]
    assert part in folder_problems(tmp_path)[0].text


def test_paths_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        assert keys(out) == [("--out", "file")]
        assert "\0" not in str(folder_problems(out)[0])


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Run(env="gymnax/CartPole-v1", seed=7)
    folders = {claim_folder(None, run) for _ in range(3)}
    assert len(folders) == 3
    assert all(re.fullmatch(r"runs/gymnax-CartPole-v1-7-\d{8}-\d{6}(-\d)?", str(folder)) for folder in folders)
    assert load_toml(next(iter(folders)) / "config.toml") == run
    with pytest.raises(UsageError, match="holds another run"):
        claim_folder(next(iter(folders)), run)
