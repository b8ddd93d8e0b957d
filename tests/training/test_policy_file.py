"""A policy file is restored bitwise, or the error says why it cannot be."""

import json
import os
import tracemalloc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purejaxppo as pp
from purejaxppo.config.schema import Run
from purejaxppo.functional.running_stats import RunningMoments, init_moments, update_moments
from purejaxppo.training.described_arrays import write_arrays
from purejaxppo.training.errors import CheckpointError
from purejaxppo.training.policy_file import FORMAT, Policy, load_policy, read_metadata, read_run, save_policy


class FakeState(NamedTuple):
    params: dict
    obs_moments: RunningMoments
    num_updates: jax.Array


class FakeAlgorithm(NamedTuple):
    width: int = 3
    extra: bool = False
    dtype: type = jnp.float32

    def init(self, key, hyperparams):
        actor = {"kernel": jax.random.normal(key, (2, self.width), self.dtype), "bias": jnp.zeros(self.width)}
        params = {"params": {"actor": actor, "log_std": jnp.float32(0.25)}}
        if self.extra:
            params["params"]["critic"] = {"bias": jnp.ones(1)}
        moments = update_moments(init_moments(jnp.zeros(2)), jnp.array([[1.0, 2.0], [3.0, 5.0]]))
        return FakeState(params, moments, jnp.int32(0))


@pytest.fixture
def saved(tmp_path, key):
    state = FakeAlgorithm().init(key, None)
    path = tmp_path / "policy.safetensors"
    save_policy(path, state, {"env": "CartPole-v1", "config": "[config]\nnum_envs = 3\n"})
    return path, state


def test_a_policy_is_restored_bitwise(saved):
    path, state = saved
    policy = load_policy(path, FakeAlgorithm())
    assert isinstance(policy, Policy)
    expected = Policy(state.params, state.obs_moments)
    assert jax.tree.structure(policy) == jax.tree.structure(expected)
    for have, want in zip(jax.tree.leaves(policy), jax.tree.leaves(expected), strict=True):
        assert have.dtype == want.dtype
        assert np.asarray(have).tobytes() == np.asarray(want).tobytes()


def test_metadata_is_restored(saved):
    metadata = read_metadata(saved[0])
    assert metadata["env"] == "CartPole-v1"
    assert metadata["config"] == "[config]\nnum_envs = 3\n"


def test_equal_policies_give_equal_bytes_for_any_order_of_metadata(saved, tmp_path):
    texts = {"config": "[config]\nnum_envs = 3\n", **{f"text{i}": "x" * i for i in range(20)}, "env": "CartPole-v1"}
    for name, ordered in (("a", texts), ("b", dict(reversed(texts.items())))):
        save_policy(tmp_path / name, saved[1], ordered)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_programs_can_read_it(saved):
    from safetensors import safe_open

    path, state = saved
    with safe_open(path, framework="np") as file:
        assert file.metadata()["env"] == "CartPole-v1"
        np.testing.assert_array_equal(file.get_tensor("obs_moments/mean"), state.obs_moments.mean)
        assert set(file.keys()) >= {"params/params/actor/kernel", "params/params/log_std"}


def test_the_file_contains_the_settings_of_the_run(saved, tmp_path):
    run = Run("Pendulum-v1", {"max_steps_in_episode": 50}, 3, pp.Config(num_envs=8), pp.NetworkConfig("gru"))
    save_policy(tmp_path / "p", saved[1], run=run)
    assert read_run(tmp_path / "p") == run
    metadata = read_metadata(tmp_path / "p")
    assert metadata["env"] == "Pendulum-v1"
    assert f"jax {jax.__version__}" in metadata["versions"]


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({}, "keeps no settings"),
        ({"config": "[config"}, "its settings cannot be read"),
        ({"config": "[config]\nnew_setting = 1\n", "purejaxppo": "9.9"}, "written by purejaxppo 9.9, do not fit"),
    ],
)
def test_settings_that_cannot_be_read_are_named(saved, tmp_path, metadata, text):
    save_policy(tmp_path / "p", saved[1], metadata)
    with pytest.raises(CheckpointError, match=text):
        read_run(tmp_path / "p")


def test_a_loaded_policy_can_be_saved_again(saved, tmp_path):
    policy = load_policy(saved[0], FakeAlgorithm())
    save_policy(tmp_path / "again", policy)
    again = load_policy(tmp_path / "again", FakeAlgorithm())
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), policy, again))


@pytest.mark.parametrize(
    ("algo", "parts"),
    [
        (FakeAlgorithm(width=4), ["actor/kernel of shape (2, 3), the network (2, 4)", "actor/bias of shape (3,)"]),
        (FakeAlgorithm(extra=True), ["lacks params/params/critic/bias"]),
        (FakeAlgorithm(dtype=jnp.bfloat16), ["actor/kernel as float32, the network as bfloat16"]),
    ],
)
def test_a_policy_of_another_network_is_refused_with_all_differences(saved, algo, parts):
    with pytest.raises(CheckpointError) as caught:
        load_policy(saved[0], algo)
    for part in [str(saved[0]), *parts]:
        assert part in str(caught.value)


def test_an_additional_array_is_refused(tmp_path, key):
    save_policy(tmp_path / "p", FakeAlgorithm(extra=True).init(key, None))
    with pytest.raises(CheckpointError, match="has params/params/critic/bias, which the network does not have"):
        load_policy(tmp_path / "p", FakeAlgorithm())


def test_a_flipped_bit_anywhere_is_detected(saved):
    path, _ = saved
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            read_metadata(path)
    with pytest.raises(CheckpointError):
        load_policy(path, FakeAlgorithm())


def test_every_truncation_is_detected(saved):
    path, _ = saved
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_metadata(path)
    path.write_bytes(whole + b" ")
    with pytest.raises(CheckpointError):
        read_metadata(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(CheckpointError, match="no such file"):
        load_policy(tmp_path / "none", FakeAlgorithm())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(tmp_path, FakeAlgorithm())
    save_file({"x": np.zeros(2)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="not a policy of purejaxppo"):
        load_policy(tmp_path / "other", FakeAlgorithm())


@pytest.mark.parametrize("size", [6 << 30, 10**12])
def test_a_sparse_file_as_large_as_its_header_says_is_refused_without_memory_for_it(tmp_path, size):
    """The header fits the size of the file, which takes no room on the disk; the network has no such array."""
    header = {"params/params/actor/kernel": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    text = json.dumps({"__metadata__": {"format": FORMAT, "sha256": "0" * 64}, **header}).encode()
    path = tmp_path / "policy"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + size)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="not a policy of this network"):
        load_policy(path, FakeAlgorithm())
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


@pytest.mark.parametrize("length", [10**9, 2**63])
def test_a_header_of_a_gigabyte_is_not_read(tmp_path, length):
    path = tmp_path / "policy"
    path.write_bytes(length.to_bytes(8, "little"))
    os.truncate(path, 2 * 10**9)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="damaged"):
        load_policy(path, FakeAlgorithm())
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_names_of_arrays_open_no_path(tmp_path):
    write_arrays(tmp_path / "policy", {"../../outside": np.zeros(3, np.float32)}, {"format": FORMAT})
    with pytest.raises(CheckpointError, match=r"has \.\./\.\./outside, which the network does not have"):
        load_policy(tmp_path / "policy", FakeAlgorithm())
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy"]
