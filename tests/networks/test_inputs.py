"""Observations of every space as network inputs: codes, pixels, symbols, asymmetric views, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import (
    BOOLS,
    OBSERVATIONS,
    SMALL,
    SYMBOLS,
    N,
    T,
    env_of,
    params_of,
    sample_block,
    small,
    uniforms,
)
from probes import quick_jit

from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.networks.actor_critic import make_network, mlp
from purejaxppo.networks.inputs import check_observation_space, symbol_bounds, to_inputs

# --- codes, pixels, symbols -------------------------------------------------------------------------------------------


def slow_features(space, x):
    """Return features of one leaf by NumPy, [..., D]."""
    lead = x.shape[: x.ndim - np.ndim(sample_block(space))]
    if isinstance(space, Discrete):
        return np.eye(space.n)[x]
    if isinstance(space, MultiDiscrete):
        return np.concatenate([np.eye(n)[x[..., i]] for i, n in enumerate(space.nvec)], -1)
    if space.codes.all():
        x = x[..., None] if len(space.shape) == 2 else x
        low, high = ((b[..., None] if len(space.shape) == 2 else b).astype(int) for b in (space.low, space.high))
        channels = range(x.shape[-1])
        x = np.concatenate(
            [np.eye(high[..., c].max() - low[..., c].min() + 1)[x[..., c] - low[..., c]] for c in channels], -1
        )
    return x.reshape(*lead, -1) / (255 if space.pixels else 1)


def test_features_of_every_space_against_numpy():
    """Discrete values and symbols are one-hot, pixels are divided by 255, everything else keeps its values."""
    spaces = {name: space for name, space in OBSERVATIONS.items() if name not in ("asymmetric", "masked")}
    observations = {name: sample_block(space, T, N) for name, space in spaces.items()}
    run = quick_jit(lambda obs: {name: to_inputs(space, obs[name], SMALL).vector for name, space in spaces.items()})
    for name, found in run(observations).items():
        leaves, structure = jax.tree.flatten(spaces[name])
        xs = structure.flatten_up_to(observations[name])
        expected = np.concatenate([slow_features(leaf, np.asarray(x)) for leaf, x in zip(leaves, xs, strict=True)], -1)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_only_declared_pixels_are_divided():
    x = jnp.full((1, 1, 3), 51, jnp.uint8)
    for pixels, expected in ((True, 0.2), (False, 51.0)):
        space = box(0, 255, (3,), np.uint8, pixels=pixels)
        np.testing.assert_allclose(to_inputs(space, x, SMALL).vector, np.full((1, 1, 3), expected), rtol=1e-6)


def test_normalized_pixels_are_not_divided_again():
    space = box(0, 255, (3,), np.uint8, pixels=True)
    np.testing.assert_array_equal(to_inputs(space, jnp.full((1, 1, 3), -1.5), SMALL).vector, np.full((1, 1, 3), -1.5))


def test_symbols_by_setting():
    """One-hot codes and codes to embed per channel, as images if they are convolved; scalars keep their values."""
    obs = sample_block(SYMBOLS, T, N)
    one_hot = to_inputs(SYMBOLS, obs, small(encoder="cnn"))
    assert one_hot.vector is None
    assert one_hot.images[0].shape == (T, N, 5, 4, 11 + 6 + 3)
    flat = to_inputs(SYMBOLS, obs, SMALL).vector
    np.testing.assert_array_equal(flat, one_hot.images[0].reshape(T, N, -1))
    np.testing.assert_array_equal(to_inputs(SYMBOLS, obs, small(symbols="scalar")).vector, obs.reshape(T, N, -1))
    embedded = to_inputs(SYMBOLS, obs, small(symbols="embedding", encoder="cnn"))
    assert embedded.vector is None
    (symbols,) = embedded.symbols
    assert (symbols.sizes, symbols.convolve, symbols.codes.dtype) == ((11, 6, 3), True, jnp.int32)
    np.testing.assert_array_equal(symbols.codes, obs)


def test_codes_start_at_the_lower_bound_and_stay_within_the_bounds():
    space = box(-1, [1, 2], (2,), np.int32, codes=True)
    low, sizes = symbol_bounds(space)
    assert (low.tolist(), sizes) == ([-1, -1], (3, 4))
    x = jnp.asarray([[[-1, 2]], [[1, -1]], [[9, -9]]], jnp.int32)
    (symbols,) = to_inputs(space, x, small(symbols="embedding")).symbols
    np.testing.assert_array_equal(symbols.codes[:, 0], [[0, 3], [2, 0], [2, 0]])


# --- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "lru"])
def test_actor_and_critic_read_only_their_own_observation(kind):
    space = {"actor": {"x": box(-1, 1, (3,)), "action_mask": BOOLS[3]}, "critic": box(-1, 1, (4,))}
    network = make_network(env_of(space, Discrete(3)), small(kind=kind))
    params, rng = params_of(network), np.random.default_rng(0)
    mask = jnp.ones((T, N, 3), bool).at[:, :, 1].set(False)

    def outputs(x, critic):
        obs = {"actor": {"x": x, "action_mask": mask}, "critic": critic}
        _, distribution, value = network.apply(params, network.initial_rnn_state(N), obs, jnp.zeros((T, N), bool))
        return distribution.logits[..., ::2], value

    jacobians = quick_jit(jax.jacrev(outputs, argnums=(0, 1)))(uniforms(rng, T, N, 3), uniforms(rng, T, N, 4))
    (logits_by_actor, logits_by_critic), (value_by_actor, value_by_critic) = jacobians
    assert not logits_by_critic.any()
    assert not value_by_actor.any()
    assert logits_by_actor.any()
    assert value_by_critic.any()


def test_symbols_that_were_normalized_are_refused():
    with pytest.raises(ValueError, match="normalized"):
        to_inputs(SYMBOLS, jnp.zeros((T, N, 5, 4, 3)), SMALL)


@pytest.mark.parametrize(
    ("space", "config", "message"),
    [
        (box(0, 1, (3,)), {"symbols": "embedding"}, "codes=True"),
        (box(0, 255, (5, 6, 2), np.uint8, pixels=True), {"symbols": "embedding"}, "codes=True"),
        (box(-np.inf, np.inf, (3,), np.int32, codes=True), {}, "need bounds"),
        ({"x": object()}, {}, r"the observation space\['x'\]"),
    ],
)
def test_unsupported_observation_spaces_are_refused(space, config, message):
    with pytest.raises(ValueError, match=message):
        check_observation_space(space, small(**config))


@pytest.mark.parametrize("name", ["x", "action_mask"])
def test_codes_and_masks_that_were_normalized_are_refused(name):
    """As a mask, values around 0 would silently allow nearly everything."""
    network = mlp(env_of({"x": Discrete(3), "action_mask": BOOLS[2]}, Discrete(2)))
    obs = {"x": jnp.zeros((T, N), jnp.int32), "action_mask": jnp.ones((T, N, 2), bool)}
    obs[name] = obs[name].astype(jnp.float32)
    with pytest.raises(ValueError, match="normalized"):
        network.apply(params_of(network), (), obs, None)
