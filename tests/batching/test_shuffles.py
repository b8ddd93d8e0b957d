"""Random orders are permutations, differ between keys, and mix well."""

import jax
import numpy as np
import pytest

from purejaxppo.batching.shuffles import feistel_permutation, permutation


@pytest.mark.parametrize("shuffle", [permutation, feistel_permutation], ids=["permutation", "hash"])
@pytest.mark.parametrize("size", [2, 15, 24, 31, 4096, 6000, 2**15 * 3])
def test_orders_are_permutations_and_differ_between_keys(shuffle, size):
    a, b = (np.asarray(jax.jit(shuffle, static_argnums=1)(jax.random.key(i), size)) for i in (0, 1))
    np.testing.assert_array_equal(np.sort(a), np.arange(size))
    np.testing.assert_array_equal(np.sort(b), np.arange(size))
    assert size < 20 or (a != b).mean() > 0.9


@pytest.mark.parametrize("shuffle", [permutation, feistel_permutation], ids=["permutation", "hash"])
def test_minibatch_membership_looks_random(shuffle):
    """Four minibatches of 512: two rows meet in one with probability 127/511, neighbours in time or space too."""
    keys = jax.random.split(jax.random.key(7), 4000)
    orders = np.asarray(jax.jit(jax.vmap(lambda k: shuffle(k, 512)))(keys))
    place = np.argsort(orders, axis=1)  # where each row went
    group = place // 128
    for lag in (1, 2, 16, 23, 256):
        meet = (group[:, :-lag] == group[:, lag:]).mean(0)  # per pair, over keys: sd .0068
        assert abs(meet.mean() - 127 / 511) < 0.004
        assert np.abs(meet - 127 / 511).max() < 0.045
    counts = np.stack([(place == p).mean(0) for p in (0, 200, 511)]) * 512  # each row at a given place: mean 1, sd .36
    assert counts.std() < 0.45
