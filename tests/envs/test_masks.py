"""Masks by brute force: where they are found, what they allow, and how actions are drawn under them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

from purejaxppo.envs.masks import action_mask, has_action, is_allowed, is_asymmetric, sample_allowed
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box

DICT = {"a": Discrete(3), "b": MultiDiscrete((2, 2)), "c": box(-1, 1, (2,))}


def test_masks_are_found_in_observations():
    mask, obs = jnp.ones(3, bool), jnp.zeros(2)
    assert action_mask(obs) is None
    assert action_mask({"x": obs, "actor": {"action_mask": mask}}) is None  # not asymmetric: a dict of any entries
    assert action_mask({"x": obs, "action_mask": mask}) is mask
    assert action_mask({"actor": {"x": obs, "action_mask": mask}, "critic": obs}) is mask
    assert action_mask({"actor": obs, "critic": obs}) is None
    assert action_mask({"actor": obs, "critic": obs, "action_mask": mask}) is mask
    assert is_asymmetric({"actor": obs, "critic": obs, "action_mask": mask})
    assert is_asymmetric({"actor": obs, "critic": obs})
    assert not is_asymmetric({"actor": obs, "critic": obs, "x": obs})
    assert not is_asymmetric((obs, obs))


FORMS = pytest.mark.parametrize(
    ("space", "shape", "sizes"),
    [
        (Discrete(3), lambda m: m, (3,)),
        (MultiDiscrete((2, 2)), lambda m: m, (2, 2)),
        (MultiDiscrete((2, 2)), lambda m: (m[..., :2], m[..., 2:]), (2, 2)),
        (DICT, lambda m: {"a": m[..., :3].astype(jnp.float32), "b": m[..., 3:]}, (3, 2, 2)),
        ((DICT["c"], DICT["a"]), lambda m: ((), m), (3,)),
    ],
    ids=["discrete", "concatenated", "tuple", "dict", "compound"],
)


@FORMS
def test_an_action_is_one_choice_of_every_component(space, shape, sizes):
    masks = np.array(list(itertools.product((False, True), repeat=sum(sizes))))
    ends = np.cumsum(sizes)
    expected = np.stack([masks[:, end - n : end].any(-1) for n, end in zip(sizes, ends, strict=True)]).all(0)
    np.testing.assert_array_equal(has_action(space, shape(jnp.asarray(masks))), expected)


@FORMS
def test_an_action_is_allowed_if_all_its_choices_are(space, shape, sizes):
    masks = np.array(list(itertools.product((False, True), repeat=sum(sizes))))
    choices = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    starts = np.cumsum(sizes) - sizes
    expected = masks[:, starts + choices].all(-1)
    push, both = jnp.zeros((len(choices), 2)), jnp.asarray(choices)
    action = {
        Discrete: lambda: both[:, 0],
        MultiDiscrete: lambda: both,
        dict: lambda: {"a": both[:, 0], "b": both[:, 1:], "c": push},
        tuple: lambda: (push, both[:, 0]),
    }[type(space)]()
    every = jax.vmap(lambda mask: jax.vmap(lambda a: is_allowed(space, shape(mask), a))(action))(jnp.asarray(masks))
    np.testing.assert_array_equal(every, expected)
    np.testing.assert_array_equal(every.any(1), has_action(space, shape(jnp.asarray(masks))))
    # and with leading axes, as in a rollout
    rows = np.arange(len(choices)) % len(masks)
    together = is_allowed(space, shape(jnp.asarray(masks[rows])), action)
    np.testing.assert_array_equal(together, expected[rows, np.arange(len(choices))])


def test_without_a_mask_everything_is_allowed():
    assert has_action(DICT, {})
    assert is_allowed(DICT, None, {"a": 0, "b": jnp.zeros(2, jnp.int32), "c": jnp.zeros(2)})
    assert has_action(Discrete(2), None)


def test_draws_are_uniform_over_allowed_actions(key):
    mask = {"a": jnp.asarray([True, False, True]), "b": jnp.asarray([False, True, True, True])}
    draws = quick_jit(jax.vmap(lambda k: sample_allowed(DICT, mask, k)))(jax.random.split(key, 20_000))
    np.testing.assert_allclose(np.bincount(draws["a"], minlength=3) / 20_000, [0.5, 0, 0.5], atol=0.02)
    np.testing.assert_array_equal(draws["b"][:, 0], 1)
    assert abs(np.mean(draws["b"][:, 1]) - 0.5) < 0.02
    assert np.abs(draws["c"]).max() <= 1
    assert abs(np.corrcoef(draws["a"], draws["b"][:, 1])[0, 1]) < 0.03
    nowhere = sample_allowed(Discrete(3), jnp.zeros(3, bool), jax.random.key(1))
    assert 0 <= nowhere < 3
