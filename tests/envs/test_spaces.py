"""Spaces check their arguments, compare by value, and draw and encode their elements."""

from functools import partial
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import integer, quick_jit

from purejaxppo.envs.spaces import (
    Box,
    Discrete,
    MultiDiscrete,
    box,
    check_space,
    encode,
    encoded_space,
    normalized_leaves,
    sample_space,
    zero_of,
)
from purejaxppo.functional.running_stats import RunningMoments, normalize


def test_box_is_compared_by_value_and_checks_its_bounds() -> None:
    assert box(0, 1, (3,)) == box(0, 1, (3,))
    assert box(0, 1, (3,)) != box(0, 2, (3,))
    assert box(0, 1, (3,)) != box(0, 1, (3,), np.int32)
    assert hash(box(0, 1, (3,))) == hash(box(0, 1, (3,)))
    assert box(-np.inf, np.inf, (2,), np.uint8) == box(0, 255, (2,), np.uint8)
    with pytest.raises(ValueError, match=r"low has \(2,\) float32, high has \(3,\) float32"):
        Box(np.zeros(2, np.float32), np.zeros(3, np.float32))


def test_samples_fill_their_space_uniformly(key: jax.Array) -> None:
    space = {
        "d": Discrete(3),
        "m": (MultiDiscrete((2, 5)), box(-2, 3, (2, 2))),
        "u8": box(0, 255, (4,), np.uint8),
        "b": box(0, 1, (3,), np.bool_),
    }
    draw = quick_jit(jax.vmap(partial(sample_space, space)))(jax.random.split(key, 4000))
    multi, real = draw["m"]
    assert jax.tree.structure(draw) == jax.tree.structure(jax.vmap(lambda _: zero_of(space))(jnp.arange(2)))
    assert draw["d"].dtype == jnp.int32
    assert draw["u8"].dtype == jnp.uint8
    assert draw["b"].dtype == jnp.bool_
    for values, n in ((draw["d"], 3), (multi[:, 0], 2), (multi[:, 1], 5), (draw["b"][:, 0].astype(int), 2)):
        share = np.bincount(np.asarray(values), minlength=n) / 4000
        assert share.shape == (n,)
        np.testing.assert_allclose(share, 1 / n, atol=0.04)
    assert (int(draw["u8"].min()), int(draw["u8"].max())) == (0, 255)
    real = np.asarray(real)
    assert real.min() >= -2
    assert real.max() <= 3
    np.testing.assert_allclose(np.quantile(real, [0.25, 0.5, 0.75]), [-0.75, 0.5, 1.75], atol=0.1)


def test_samples_of_unbounded_boxes_are_finite_and_keep_the_bound_they_have(key: jax.Array) -> None:
    largest = np.finfo(np.float32).max
    low = np.array([-largest, -np.inf, 2, -np.inf], np.float32)
    high = np.array([largest, np.inf, np.inf, -1], np.float32)
    draw = np.asarray(quick_jit(jax.vmap(partial(sample_space, Box(low, high))))(jax.random.split(key, 2000)))
    assert np.isfinite(draw).all()
    assert (draw >= low).all()
    assert (draw <= high).all()
    np.testing.assert_allclose(draw.mean(0), [0, 0, 3, -2], atol=0.15)


def test_encode_is_one_hot_and_ravel_by_sorted_key() -> None:
    space = {"b": (Discrete(3), box(-1, 1, (2, 2))), "a": MultiDiscrete((2, 3))}
    element = {"b": (integer(2), jnp.arange(4.0).reshape(2, 2)), "a": jnp.array([1, 0], jnp.int32)}
    np.testing.assert_array_equal(encode(space, element), [0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 2, 3])
    low, high = np.array([0] * 8 + [-1] * 4, np.float32), np.array([1] * 12, np.float32)
    assert encoded_space(space) == Box(low, high, codes=np.array([True] * 8 + [False] * 4))


def test_only_quantities_are_normalized():
    """In pytree order: dict keys sorted. Masks, whatever their dtype, and codes are not normalized."""
    image = box(0, 255, (4, 4), np.uint8)
    space = {
        "z": Discrete(3),
        "action_mask": box(0, 1, (3,)),
        "b": (box(0, 1, (2,)), MultiDiscrete((2, 2))),
        "c": image,
    }
    assert normalized_leaves(space) == (False, True, False, True, False)
    assert normalized_leaves(space, on=False) == (False,) * 5
    seen = {"actor": {"x": box(0, 1, (2,)), "action_mask": box(0, 1, (3,))}, "critic": box(0, 1, (5,))}
    assert normalized_leaves(seen) == (False, True, True)  # a mask inside the actor's entry is not normalized either
    assert normalized_leaves(box(0, 1, (2,))) == (True,)
    assert normalized_leaves(Box(np.zeros(2, bool), np.ones(2, bool))) == (False,)


@pytest.mark.parametrize("n", [0, -1, 2.0, 2**31, True, "3", None, jnp.int32(2)])
def test_a_number_of_choices_is_an_integer_from_one_on(n: Any) -> None:
    with pytest.raises(ValueError, match="needs an integer from 1 to 2147483647, not"):
        Discrete(n)
    with pytest.raises(ValueError, match="needs an integer from 1 to 2147483647, not"):
        MultiDiscrete((3, n))


def test_numpy_integers_and_lists_become_python_numbers_and_tuples() -> None:
    assert Discrete(np.int64(3)) == Discrete(3)
    assert type(Discrete(np.int64(3)).n) is int
    for nvec in ([2, 3], np.array([2, 3])):
        assert hash(MultiDiscrete(nvec)) == hash(MultiDiscrete((2, 3)))
    for nvec in ((), 3, [[2, 3]]):
        with pytest.raises(ValueError, match="one or more integers in a tuple"):
            MultiDiscrete(nvec)


@pytest.mark.parametrize(("low", "high"), [(1, 0), (np.nan, 1), (0, np.nan), ([0, 2], [1, 1])])
def test_bounds_are_numbers_in_order(low: Any, high: Any) -> None:
    with pytest.raises(ValueError, match="must be numbers with low <= high"):
        box(low, high, (2,))


def test_a_bound_beyond_the_largest_float_is_infinite() -> None:
    assert box(-1e300, 1e300, (2,)) == box(-np.inf, np.inf, (2,))


def test_pixels_are_stated_and_are_bytes() -> None:
    image = box(0, 255, (4, 4), np.uint8, pixels=True)
    assert image != box(0, 255, (4, 4), np.uint8)
    assert not box(0, 255, (4, 4), np.uint8).pixels
    assert "pixels" in repr(image)
    with pytest.raises(ValueError, match="dtype uint8, not float32"):
        box(0, 1, (4, 4), pixels=True)


def test_codes_are_stated_for_all_entries_or_for_some_and_are_never_normalized() -> None:
    mixed = box(0, 1, (3,), codes=[True, False, True])
    assert mixed != box(0, 1, (3,))
    assert normalized_leaves(mixed) == ((False, True, False),)
    assert normalized_leaves(mixed, on=False) == (False,)
    assert normalized_leaves(box(0, 1, (3,), codes=True)) == (False,)
    assert normalized_leaves(box(0, 10, (7, 7, 2), np.uint8, codes=True)) == (False,)
    with pytest.raises(ValueError, match=r"broadcast to its shape \(3,\)"):
        box(0, 1, (3,), codes=[True, False])
    encoded = encoded_space((Discrete(2), box(-1, 1, (1,)), box(0, 1, (1,), np.bool_)))
    assert normalized_leaves(encoded) == ((False, False, True, False),)


def test_normalization_does_not_change_codes_within_a_vector() -> None:
    moments = RunningMoments(jnp.full(3, 5.0), jnp.full(3, 4.0), jnp.float32(10))
    seen = normalize(moments, jnp.array([[1.0, 7.0, 0.0]]), only=normalized_leaves(box(0, 9, (3,), codes=[1, 0, 1])))
    np.testing.assert_allclose(seen, [[1, 1, 0]], rtol=1e-6)


def test_other_objects_are_not_spaces() -> None:
    check_space({"a": Discrete(2), "b": (box(0, 1, (2,)), MultiDiscrete((2,)))})
    theirs = gymnax.environments.spaces.Discrete(2)
    for bad, said in (
        (theirs, r"the action space must be Discrete\(n\).* of type gymnax Discrete"),
        ((Discrete(2), 3), r"the action space\[1\] must be .* of type int"),
        ({"a": {"b": None}}, r"the action space\['a'\]\['b'\] must be .* of type NoneType"),
        ({}, "the action space is an empty dict"),
        ({"a": ()}, "the action space is an empty dict"),
        ({1: Discrete(2)}, "must have strings as keys"),
    ):
        with pytest.raises(ValueError, match=said):
            check_space(bad, "the action space")
