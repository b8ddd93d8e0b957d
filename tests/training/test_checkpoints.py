"""A checkpoint is restored bitwise, or the error says why it cannot be."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crashes import Crash, crash_after
from safetensors.numpy import load_file
from states import OddAlgorithm, bits, odd_state

import purejaxppo as pp
from purejaxppo import CheckpointError, Hyperparams
from purejaxppo.training.array_file import file_size
from purejaxppo.training.checkpoints import load_checkpoint, verify_checkpoint
from purejaxppo.training.errors import DamagedCheckpointError
from purejaxppo.training.loop import as_traced
from purejaxppo.training.manifest import MANIFEST, Leaf, Manifest, encode_manifest, read_manifest, specs_of

ALGO = OddAlgorithm()
H = Hyperparams(learning_rate=1e-3, clip_eps=0.1)


@pytest.fixture
def state(key):
    return odd_state(key)


@pytest.fixture
def folder(tmp_path, state):
    pp.save(tmp_path / "here", state, H, algo=ALGO)
    return tmp_path / "here"


def arrays_of(folder):
    (path,) = folder.glob("arrays-*.safetensors")
    return path


def test_every_kind_of_leaf_is_restored_bitwise(folder, state):
    algo, restored, h = pp.restore(folder, ALGO)
    assert algo is ALGO
    assert bits(restored) == bits(state)
    assert bits(h) == bits(as_traced(H))
    assert restored.inner.weights.weak_type
    assert not restored.inner.counts[0].weak_type


def test_keys_of_other_implementations_are_restored(tmp_path):
    state = odd_state(jax.random.key(5, impl="rbg"))
    pp.save(tmp_path / "c", state)
    assert bits(pp.restore(tmp_path / "c", ALGO).state) == bits(state)


def test_states_with_leading_axes_are_restored(tmp_path, key):
    states = jax.vmap(odd_state)(jax.random.split(key, 6).reshape(6))
    h = as_traced(Hyperparams(learning_rate=jnp.linspace(1e-4, 1e-3, 6)))
    pp.save(tmp_path / "c", states, h)
    restored = pp.restore(tmp_path / "c", ALGO)
    assert bits(restored.state) == bits(states)
    assert bits(restored.hyperparams) == bits(h)


def test_the_files_are_plain_safetensors_and_json(folder, state):
    arrays = load_file(arrays_of(folder))
    np.testing.assert_array_equal(arrays["state/params/dense/0"], state.params["dense"]["0"])
    np.testing.assert_array_equal(arrays["state/key"], jax.random.key_data(state.key))
    assert arrays["hyperparams/clip_eps"] == np.float32(0.1)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["num_updates"] == 41
    assert manifest["settings"]["config"]["num_envs"] == 2
    assert manifest["versions"]["jax"] == jax.__version__
    keys = {name: impl for name, _, _, impl in manifest["leaves"] if impl}
    assert keys == {"state/env_state/keys": "threefry2x32", "state/key": "threefry2x32"}


def test_saving_again_replaces_the_checkpoint_and_leaves_two_files(folder, state):
    newer = state._replace(num_updates=jnp.int32(42))
    pp.save(folder, newer, H)
    assert len(list(folder.iterdir())) == 2
    assert int(pp.restore(folder, ALGO).state.num_updates) == 42


def test_nothing_is_written_among_other_files(tmp_path, state):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds other files \(thesis.tex\)"):
        pp.save(tmp_path, state)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CheckpointError, match="is a file"):
        pp.save(tmp_path / "thesis.tex", state)


# ---- damage


def test_every_flipped_bit_is_detected(folder):
    for path in (folder / MANIFEST, arrays_of(folder)):
        whole = path.read_bytes()
        for place in range(0, len(whole), 29 if path.name == MANIFEST else 7):  # every region, and every bit of a byte
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(bytes(damaged))
            with pytest.raises(DamagedCheckpointError):
                verify_checkpoint(folder)
        path.write_bytes(whole)
    verify_checkpoint(folder)


def test_loading_detects_the_same_damage_as_verifying(folder):
    manifest = read_manifest(folder)
    path = arrays_of(folder)
    whole = path.read_bytes()
    for place in (0, 9, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(bytes(damaged))
        with pytest.raises(DamagedCheckpointError, match=path.name):
            load_checkpoint(folder, ALGO, manifest)


def test_every_truncation_addition_and_loss_is_detected(folder):
    for path in (folder / MANIFEST, arrays_of(folder)):
        whole = path.read_bytes()
        for length in (*range(0, len(whole), 97), len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(DamagedCheckpointError):
                verify_checkpoint(folder)
        path.write_bytes(whole + b" ")
        with pytest.raises(DamagedCheckpointError):
            verify_checkpoint(folder)
        path.unlink()
        with pytest.raises(DamagedCheckpointError, match=f"{path.name}: No such file"):
            verify_checkpoint(folder)
        path.write_bytes(whole)


def test_a_crash_after_any_file_operation_leaves_the_old_or_the_new_state(tmp_path, state, monkeypatch):
    newer = state._replace(num_updates=jnp.int32(42))
    seen, count = [], 0
    while True:
        folder = tmp_path / str(count)
        pp.save(folder, state, H)
        with monkeypatch.context() as patch:
            happened = crash_after(patch, count)
            try:
                pp.save(folder, newer, H)
                finished = True
            except Crash:
                finished = False
        assert finished or len(happened) == count
        seen.append(int(pp.restore(folder, ALGO).state.num_updates))
        pp.save(folder, newer, H)  # the leftovers of the crash are removed
        assert len(list(folder.iterdir())) == 2
        if finished:
            break
        count += 1
    assert seen == sorted(seen)
    assert {41, 42} == set(seen)
    assert count >= 6


def test_a_crash_in_a_first_save_leaves_no_checkpoint(tmp_path, state, monkeypatch):
    for count in range(5):
        with monkeypatch.context() as patch:
            crash_after(patch, count)
            with pytest.raises(Crash):
                pp.save(tmp_path / "c", state, H)
        with pytest.raises(CheckpointError, match=r"holds no checkpoint|no such folder"):
            pp.restore(tmp_path / "c", ALGO)
    pp.save(tmp_path / "c", state, H)
    assert bits(pp.restore(tmp_path / "c", ALGO).state) == bits(state)


def test_data_is_on_disk_before_its_name_is(tmp_path, state, monkeypatch):
    with monkeypatch.context() as patch:
        done = crash_after(patch, 10**6)
        pp.save(tmp_path / "c", state)
    order = [name for name in done if name in ("fsync", "replace")]
    # arrays: data, name, folder; manifest: data, name, folder; then the folder of the folder
    assert order == ["fsync", "replace", "fsync", "fsync", "replace", "fsync", "fsync"]


def test_a_full_disk_leaves_the_old_checkpoint_and_no_temporary_files(folder, state, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                pp.save(folder, state._replace(num_updates=jnp.int32(42)))
        assert int(pp.restore(folder, ALGO).state.num_updates) == 41
        assert not [entry for entry in folder.iterdir() if entry.name.endswith(".tmp")]


# ---- files from elsewhere


def rewrite(folder, **changes):
    """Replace fields of a manifest, valid or not, and correct its checksum, as an attacker would."""
    given = json.loads((folder / MANIFEST).read_text())
    given = {name: given[name] for name in Manifest._fields} | {"leaves": [Leaf(*leaf) for leaf in given["leaves"]]}
    (folder / MANIFEST).write_text(encode_manifest(Manifest(**given | changes)))


def refused(folder, algo=ALGO):
    with pytest.raises(CheckpointError) as caught:
        pp.restore(folder, algo)
    return str(caught.value)


def test_a_state_of_another_network_is_refused_with_all_differences(folder):
    message = refused(folder, OddAlgorithm(width=4, more=True))
    for part in (
        "state/params/dense/0' has shape (8,), not (9,)",
        "state/params/dense/0 has shape (8,), not (9,)",
        "it lacks state/params/more",
    ):
        assert part in message


def test_an_inconsistent_manifest_is_refused_before_anything_is_allocated(folder):
    leaves = read_manifest(folder).leaves
    huge = [leaf._replace(shape=(10**12,)) if leaf.name == "state/params/dense/0" else leaf for leaf in leaves]
    rewrite(folder, leaves=tuple(huge))
    assert "damaged" in refused(folder)
    rewrite(folder, leaves=tuple(huge), num_bytes=file_size(specs_of(huge)))
    assert "not a checkpoint of this network" in refused(folder)


def test_the_batch_shape_of_a_manifest_must_match_the_size_of_the_file(folder):
    manifest = read_manifest(folder)
    leaves = tuple(
        leaf._replace(shape=(10**9, *leaf.shape)) if leaf.name.startswith("state/") else leaf
        for leaf in manifest.leaves
    )
    rewrite(folder, leaves=leaves, batch_shape=(10**9,), num_bytes=file_size(specs_of(leaves)))
    assert "is cut short" in refused(folder)


def test_names_in_a_manifest_cannot_open_another_path(folder, tmp_path):
    arrays_of(folder).rename(tmp_path / "outside.safetensors")
    given = json.loads((folder / MANIFEST).read_text())
    rewrite(folder, sha256="../../outside" + "0" * 51)
    assert "damaged" in refused(folder)
    rewrite(folder, sha256=given["sha256"])
    arrays = folder / f"arrays-{given['sha256'][:16]}.safetensors"
    arrays.symlink_to(tmp_path / "outside.safetensors")
    assert "is a link" in refused(folder)


@pytest.mark.parametrize("name", ["manifest", "arrays"])
def test_pipes_folders_links_and_huge_files_are_refused_at_once(folder, name, tmp_path):
    path = folder / MANIFEST if name == "manifest" else arrays_of(folder)
    whole = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(folder)
    path.unlink()
    path.mkdir()
    assert "not a regular file" in refused(folder)
    path.rmdir()
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused(folder)
    path.unlink()
    path.write_bytes(whole)
    os.truncate(path, 6 << 30)  # a sparse file: no disk is used
    assert "bytes; at most" in refused(folder)


def test_unknown_kinds_of_keys_are_refused(folder):
    leaves = read_manifest(folder).leaves
    rewrite(folder, leaves=tuple(leaf._replace(key_impl=leaf.key_impl and "dice") for leaf in leaves))
    assert "'dice'" in refused(folder)


def test_missing_permission_is_a_clear_error(folder, monkeypatch):
    def forbidden(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", forbidden)
    assert f"{folder / MANIFEST}: Permission denied" in refused(folder)
