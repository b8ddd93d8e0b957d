"""A manifest is what was written, or it is refused."""

import json

import jax
import numpy as np
import pytest
from readable import readable
from states import OddAlgorithm, odd_state

import purejaxppo as pp
from purejaxppo import CheckpointError
from purejaxppo.training.array_file import ArraySpec, file_size
from purejaxppo.training.errors import DamagedCheckpointError
from purejaxppo.training.manifest import (
    MANIFEST,
    Leaf,
    Manifest,
    arrays_name,
    encode_manifest,
    library_versions,
    read_manifest,
    reason,
    specs_of,
)

ALGO = OddAlgorithm()
LEAVES = (Leaf("state/key", "uint32", (3, 2), "threefry2x32"), Leaf("state/ä", "bfloat16", (), None))
VALID = Manifest(
    num_updates=7,
    batch_shape=(3,),
    leaves=LEAVES,
    num_bytes=file_size(specs_of(LEAVES)),
    sha256="0123456789abcdef" * 4,
    settings={"env": "Odd-v0"},
    versions={"jax": "1.2"},
    details={"score": 0.1, "position": [1, None]},
)


@pytest.fixture
def folder(tmp_path, key):
    pp.save(tmp_path / "here", odd_state(key), algo=ALGO)
    return tmp_path / "here"


def refused(folder):
    with pytest.raises(CheckpointError) as caught:
        pp.restore(folder, ALGO)
    return str(caught.value)


def read_back(folder, manifest):
    (folder / MANIFEST).write_text(encode_manifest(manifest), encoding="utf-8")
    return read_manifest(folder)


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    assert read_back(tmp_path, VALID) == VALID
    assert arrays_name(VALID) == "arrays-0123456789abcdef.safetensors"


@pytest.mark.parametrize(
    "change",
    [
        {"num_updates": -1},
        {"num_updates": 2**63},
        {"num_updates": True},
        {"num_updates": 7.0},
        {"batch_shape": (-3,)},
        {"leaves": (*LEAVES, LEAVES[0])},
        {"leaves": (LEAVES[0]._replace(shape=(3, 3)), LEAVES[1])},
        {"leaves": (LEAVES[0]._replace(shape=(1,) * 65), LEAVES[1])},
        {"num_bytes": VALID.num_bytes + 1},
        {"sha256": "../" + "0" * 61},
        {"sha256": "0" * 63},
        {"settings": 3},
    ],
    ids=readable,
)
def test_a_field_that_cannot_be_is_refused_though_the_checksum_fits(tmp_path, change):
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        read_back(tmp_path, VALID._replace(**change))


def test_a_field_that_was_changed_does_not_match_the_checksum(tmp_path):
    text = encode_manifest(VALID)
    (tmp_path / MANIFEST).write_text(text.replace('"num_updates": 7', '"num_updates": 8'), encoding="utf-8")
    with pytest.raises(DamagedCheckpointError, match="does not match its checksum"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x04\x95",  # a pickle
        b"[" * 100_000,
        b'{"format": "purejaxppo-checkpoint-1"}',
        b'{"checksum": "", "format": "other"}',
        b"[1, 2]",
        b'{"a": 1, "a": 2}',
        b'{"num_updates": ' + b"9" * 5000 + b"}",
        b'{"a": NaN}',
        b"\xff\xfe",
        b"null",
    ],
)
def test_other_manifests_are_refused(folder, text):
    (folder / MANIFEST).write_bytes(text)
    assert MANIFEST in refused(folder)


def test_repeated_keys_and_other_spellings_are_refused(folder):
    text = (folder / MANIFEST).read_text()
    for other in (text.replace('"num_updates": 41', '"num_updates": 0,\n "num_updates": 41'), text.replace("\n", "")):
        (folder / MANIFEST).write_text(other)
        assert "damaged" in refused(folder)


@pytest.mark.parametrize("dtype", ["object", "O", "float32,float32", "<f4", "nonsense", "void64"])
def test_dtypes_that_are_not_numbers_are_refused(folder, dtype):
    manifest = read_manifest(folder)
    leaves = (manifest.leaves[0]._replace(dtype=dtype), *manifest.leaves[1:])
    (folder / MANIFEST).write_text(encode_manifest(manifest._replace(leaves=leaves)))
    assert "damaged" in refused(folder)


def test_the_specs_are_the_dtypes_and_shapes_by_name():
    bfloat16 = jax.numpy.dtype("bfloat16")
    assert specs_of(LEAVES) == {
        "state/key": ArraySpec(np.dtype("uint32"), (3, 2)),
        "state/ä": ArraySpec(bfloat16, ()),
    }


def test_the_versions_are_those_of_the_modules():
    versions = library_versions()
    assert (versions["purejaxppo"], versions["jax"]) == (pp.__version__, jax.__version__)
    assert versions["numpy"] == np.__version__
    assert json.loads(encode_manifest(VALID._replace(versions=versions)))["versions"] == versions


def test_a_reason_names_the_path_once(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "none").read_text()
    assert reason(caught.value) == f"{tmp_path / 'none'}: No such file or directory"
    assert reason(ValueError("odd")) == "odd"
