"""A policy file gives back the same bits, or says plainly why it cannot."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.functional.running_stats import RunningMoments, init_moments, update_moments
from purejaxppo.training.policy_file import CheckpointError, Policy, load_policy, read_metadata, save_policy


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


def test_the_same_bits_come_back(saved):
    path, state = saved
    policy = load_policy(path, FakeAlgorithm())
    assert isinstance(policy, Policy)
    expected = Policy(state.params, state.obs_moments)
    assert jax.tree.structure(policy) == jax.tree.structure(expected)
    for have, want in zip(jax.tree.leaves(policy), jax.tree.leaves(expected), strict=True):
        assert have.dtype == want.dtype
        assert np.asarray(have).tobytes() == np.asarray(want).tobytes()


def test_metadata_comes_back(saved):
    metadata = read_metadata(saved[0])
    assert metadata["env"] == "CartPole-v1"
    assert metadata["config"] == "[config]\nnum_envs = 3\n"


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


def test_a_name_too_many_is_refused(tmp_path, key):
    save_policy(tmp_path / "p", FakeAlgorithm(extra=True).init(key, None))
    with pytest.raises(CheckpointError, match="has params/params/critic/bias, which the network has not"):
        load_policy(tmp_path / "p", FakeAlgorithm())


def test_every_flipped_bit_is_noticed(saved):
    path, _ = saved
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            load_policy(path, FakeAlgorithm())


def test_every_cut_is_noticed(saved):
    path, _ = saved
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_policy(path, FakeAlgorithm())


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(CheckpointError, match="no such file"):
        load_policy(tmp_path / "none", FakeAlgorithm())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_policy(tmp_path, FakeAlgorithm())
    save_file({"x": np.zeros(2)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="not a policy of purejaxppo"):
        load_policy(tmp_path / "other", FakeAlgorithm())
