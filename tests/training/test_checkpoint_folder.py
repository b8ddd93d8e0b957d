"""A run folder keeps its newest and its best checkpoints, and finds the newest one that is not damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crashes import Crash, crash_after
from states import OddAlgorithm, odd_state

import purejaxppo as pp
from purejaxppo import CheckpointError, Hyperparams
from purejaxppo.training.checkpoint_folder import (
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    save_in_run,
)
from purejaxppo.training.checkpoints import verify_checkpoint
from purejaxppo.training.manifest import MANIFEST

ALGO = OddAlgorithm()
STATE = odd_state(jax.random.key(0))


def save_at(run_dir, num_updates, keep=3, best=0):
    state = STATE._replace(num_updates=jnp.int32(num_updates))
    return save_in_run(run_dir, state, Hyperparams(), ALGO, {}, keep, best)


def kept(run_dir):
    return [int(folder.name) for folder in list_checkpoints(run_dir)]


def test_the_newest_and_the_best_checkpoint_are_kept(tmp_path):
    for num_updates, best in ((1, 1), (2, 2), (3, 2), (10, 2), (20, 2)):
        save_at(tmp_path, num_updates, keep=2, best=best)
    assert kept(tmp_path) == [20, 10, 2]
    save_at(tmp_path, 30, keep=2, best=30)
    assert kept(tmp_path) == [30, 20]


def test_without_a_best_policy_the_newest_are_kept(tmp_path):
    for num_updates in range(5):
        save_at(tmp_path, num_updates)
    assert kept(tmp_path) == [4, 3, 2]
    assert int(pp.restore(tmp_path, ALGO).state.num_updates) == 4


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    older, newer = save_at(tmp_path, 1), save_at(tmp_path, 2)
    (newer / MANIFEST).write_text("{}")
    folder, sentences = find_checkpoint(tmp_path)
    assert folder == older
    assert len(sentences) == 1
    assert str(newer / MANIFEST) in sentences[0]
    with pytest.warns(UserWarning, match="0000000002.*an older checkpoint is used"):
        assert int(pp.restore(tmp_path, ALGO).state.num_updates) == 1
    (older / MANIFEST).write_text("{}")
    with pytest.raises(CheckpointError, match="no usable checkpoint") as caught:
        pp.restore(tmp_path, ALGO)
    assert str(older) in str(caught.value)
    assert str(newer) in str(caught.value)


def test_damaged_checkpoints_do_not_count_among_those_kept(tmp_path):
    good = save_at(tmp_path, 1, keep=2)
    for num_updates in (2, 3):
        (save_at(tmp_path, num_updates, keep=2) / MANIFEST).write_text("{}")
        assert good in list_checkpoints(tmp_path)
    save_at(tmp_path, 4, keep=2)
    assert kept(tmp_path) == [4, 1]


def test_an_interrupted_save_is_skipped_without_a_warning_and_removed(tmp_path):
    save_at(tmp_path, 1)
    unfinished = save_at(tmp_path, 2)
    (unfinished / MANIFEST).unlink()
    assert find_checkpoint(tmp_path) == (checkpoint_path(tmp_path, 1), ())
    save_at(tmp_path, 3)
    assert kept(tmp_path) == [3, 1]


def test_a_save_that_fails_changes_nothing(tmp_path, monkeypatch):
    save_at(tmp_path, 1, keep=1)
    before = sorted(tmp_path.rglob("*"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_at(tmp_path, 2, keep=1)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_and_links_are_not_removed(tmp_path):
    save_at(tmp_path, 1, keep=1)
    shutil.copytree(checkpoint_path(tmp_path, 1), tmp_path / "elsewhere")
    (tmp_path / "checkpoints" / "0000000009").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    save_at(tmp_path, 2, keep=1)
    assert kept(tmp_path) == [2]
    names = {entry.name for entry in (tmp_path / "checkpoints").iterdir()}
    assert names == {"0000000002", "0000000009", "notes.txt"}
    assert (tmp_path / "elsewhere" / MANIFEST).exists()


def test_the_error_for_another_folder_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        pp.restore(tmp_path, ALGO)
    with pytest.raises(CheckpointError, match="no such folder"):
        pp.restore(tmp_path / "none", ALGO)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is not a folder"):
        pp.restore(tmp_path / "file", ALGO)


def test_a_crash_after_any_file_operation_leaves_a_complete_checkpoint(tmp_path, monkeypatch):
    """Of a save that removes an older checkpoint: the newest one that is complete is the old one or the new one."""
    seen, count, finished = [], 0, False
    while not finished:
        run_dir = tmp_path / str(count)
        for num_updates in (1, 2):
            save_at(run_dir, num_updates, keep=2)
        with monkeypatch.context() as patch:
            crash_after(patch, count)
            try:
                save_at(run_dir, 3, keep=2)
                finished = True
            except Crash:
                pass
        folder, sentences = find_checkpoint(run_dir)
        assert not sentences
        seen.append(verify_checkpoint(folder).num_updates)
        save_at(run_dir, 4, keep=2)  # removes what the crash left
        assert kept(run_dir)[0] == 4
        assert len(kept(run_dir)) == 2
        count += 1
    assert seen == sorted(seen)
    assert {2, 3} == set(seen)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "empty"])
@pytest.mark.parametrize("pattern", ["manifest.json", "arrays-*"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(tmp_path, damage, pattern):
    """At 24 random offsets of the newest checkpoint's files."""
    rng = np.random.default_rng(0)
    older, newer = save_at(tmp_path, 1), save_at(tmp_path, 2)
    (path,) = newer.glob(pattern)
    whole = path.read_bytes()
    for place in rng.integers(0, len(whole), 24 if damage in ("flip", "truncate") else 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        content = {"flip": bytes(damaged), "truncate": whole[:place], "empty": b""}.get(damage)
        path.unlink() if content is None else path.write_bytes(content)
        folder, sentences = find_checkpoint(tmp_path)
        assert folder == older
        if path.exists() or path.name != MANIFEST:  # without a manifest it is a save that was interrupted
            assert str(newer) in sentences[0]
    path.write_bytes(whole)
    assert find_checkpoint(tmp_path) == (newer, ())
