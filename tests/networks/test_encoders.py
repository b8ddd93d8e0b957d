"""Encoders compared with NumPy: dense layers, layer normalization, convolutions, embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import (
    OBSERVATIONS,
    SYMBOLS,
    N,
    T,
    dense,
    env_of,
    params_of,
    sample_block,
    shapes,
    small,
)
from probes import quick_jit
from slow import slow_except

from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.actor_critic import make_network, mlp
from purejaxppo.networks.encoders import Embedding
from purejaxppo.networks.protocol import Network
from purejaxppo.networks.recurrent import CELLS


def test_layer_norm_and_a_shared_torso():
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    network = mlp(env, (6,), "relu", shared_torso=True, layer_norm=True)
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers = params["params"]
    x = dense(layers["shared_0"], np.float64(obs))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = np.maximum(x * np.float64(layers["shared_0_norm"]["scale"]) + np.float64(layers["shared_0_norm"]["bias"]), 0)
    _, distribution, value = network.apply(params, (), obs, jnp.zeros((T, N), bool))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x), atol=1e-5)
    np.testing.assert_allclose(value, dense(layers["value"], x)[..., 0], atol=1e-5)
    assert not any(name.startswith(("actor", "critic")) for name in layers)


def slow_convolution(params, x, stride):
    """Convolve x [..., H, W, C] by loops over the positions of the kernel, without padding."""
    kernel = np.float64(params["kernel"])
    size, height, width = kernel.shape[0], x.shape[-3], x.shape[-2]
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    out = np.zeros((*x.shape[:-3], rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = x[..., i * stride : i * stride + size, j * stride : j * stride + size, :]
            out[..., i, j, :] = np.einsum("...hwc,hwcf->...f", patch, kernel)
    return out + np.float64(params["bias"])


@pytest.mark.parametrize(("shape", "dtype"), [((5, 6, 2), np.uint8), ((5, 6), bool), ((36, 40, 1), np.uint8)])
def test_cnn_is_convolutions_and_dense_layers(shape, dtype):
    """Small images: 16 3 x 3 kernels; from 36 pixels a side on, the layers of the Nature paper."""
    is_pixels = dtype == np.uint8
    env = env_of(box(0, 255, shape, dtype, pixels=is_pixels), Discrete(4))
    network = make_network(env, small(kind="cnn", activation="relu", shared_torso=True))
    params, obs = params_of(network), sample_block(env.observation_space, 1, 2)
    layers = params["params"]
    x = np.float64(obs) / (255 if is_pixels else 1)
    x = x if len(shape) == 3 else x[..., None]
    kernels = {3: [(3, 16, 1)], 8: [(8, 32, 4), (4, 64, 2), (3, 64, 1)]}[8 if shape[0] >= 36 else 3]
    for i, (size, width, stride) in enumerate(kernels):
        assert layers[f"shared_conv0_{i}"]["kernel"].shape == (size, size, x.shape[-1], width)
        x = np.maximum(slow_convolution(layers[f"shared_conv0_{i}"], x, stride), 0)
    x = np.maximum(dense(layers["shared_0"], x.reshape(1, 2, -1)), 0)
    _, distribution, _ = quick_jit(network.apply)(params, (), obs, jnp.zeros((1, 2), bool))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x), atol=1e-5)


@pytest.mark.parametrize("kind", slow_except(["gru", "lstm", "lru"], "lstm"))
def test_a_cnn_before_a_recurrent_cell(kind):
    """Convolutions and dense layers of each image as loops, then the cell over their features."""
    env = env_of(box(0, 255, (5, 6, 2), np.uint8, pixels=True), Discrete(4))
    network = make_network(env, small(kind=kind, encoder="cnn", activation="relu", shared_torso=True))
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers, is_first = params["params"], jnp.asarray([[True, False], [False, False], [False, True]])
    x = np.maximum(slow_convolution(layers["shared_conv0_0"], np.float64(obs) / 255, 1), 0)
    x = np.maximum(dense(layers["shared_0"], x.reshape(T, N, -1)), 0)
    cell, rnn_state = CELLS[kind](4), network.initial_rnn_state(N)
    cell_state, x = cell.apply(
        {"params": layers[f"shared_{kind}"]}, rnn_state["shared"], jnp.asarray(x, jnp.float32), is_first
    )
    after, distribution, value = quick_jit(network.apply)(params, rnn_state, obs, is_first)
    for a, b in zip(jax.tree.leaves(after["shared"]), jax.tree.leaves(cell_state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], np.float64(x)), atol=1e-5)
    np.testing.assert_allclose(value, dense(layers["value"], np.float64(x))[..., 0], atol=1e-5)


def test_kind_cnn_is_an_mlp_with_a_cnn_encoder():
    env = env_of(OBSERVATIONS["dict"], Discrete(3))
    networks = [make_network(env, small(**changes)) for changes in ({"kind": "cnn"}, {"encoder": "cnn"})]
    obs, params = sample_block(env.observation_space, T, N), params_of(networks[0])
    assert shapes(params) == shapes(params_of(networks[1]))
    a, b = (jax.tree.leaves(network.apply(params, (), obs, None)) for network in networks)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# --- symbols ----------------------------------------------------------------------------------------------------------


def slow_embedding(params, codes):
    """The row of each channel's table, concatenated."""
    return np.concatenate([np.float64(params[f"channel_{c}"])[codes[..., c]] for c in range(codes.shape[-1])], -1)


def test_symbols_are_embedded_and_convolved():
    env = env_of({"grid": SYMBOLS, "direction": Discrete(4)}, Discrete(3))
    config = small(encoder="cnn", symbols="embedding", embedding_size=4, activation="relu", shared_torso=True)
    network = make_network(env, config)
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers = params["params"]
    x = slow_embedding(layers["shared_embedding0"], np.asarray(obs["grid"]))
    assert x.shape == (T, N, 5, 4, 12)
    x = np.maximum(slow_convolution(layers["shared_conv0_0"], x, 1), 0).reshape(T, N, -1)
    x = np.maximum(dense(layers["shared_0"], np.concatenate([x, np.eye(4)[obs["direction"]]], -1)), 0)
    _, distribution, _ = quick_jit(network.apply)(params, (), obs, jnp.zeros((T, N), bool))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x), atol=1e-5)


def test_embeddings_without_convolutions_are_raveled():
    env = env_of((box(1, 4, (2, 2), np.int32, codes=True), box(-1, 1, (2,))), Discrete(3))
    network = make_network(env, small(symbols="embedding", embedding_size=3))
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers = params["params"]
    x = slow_embedding(layers["actor_embedding0"], np.asarray(obs[0])[..., None] - 1).reshape(T, N, 12)
    x = np.tanh(dense(layers["actor_0"], np.concatenate([x, np.float64(obs[1])], -1)))
    _, distribution, _ = network.apply(params, (), obs, None)
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_tables_are_gathered_and_small_ones_multiplied_with_equal_results(dtype, monkeypatch):
    """Values and gradients; the gradient sums over equal codes."""
    codes = jnp.asarray(np.random.default_rng(0).integers(0, 7, (5, 3, 2)), jnp.int32)
    module = Embedding((7, 9), 4, dtype)
    params = params_of(Network(lambda key: module.init(key, codes), module.apply))

    def loss(params):
        return jnp.sum(jnp.sin(module.apply(params, codes).astype(jnp.float32)))

    results = []
    for few in (0, 64):
        monkeypatch.setattr("purejaxppo.networks.encoders.FEW_SYMBOLS", few)
        results.append((module.apply(params, codes), jax.grad(loss)(params)))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.float64(a), np.float64(b), atol=1e-6 if dtype == jnp.float32 else 0.03)
    np.testing.assert_array_equal(results[0][0], results[1][0])


# --- the critic's layers ----------------------------------------------------------------------------------------------


def test_the_critic_may_have_other_layers_than_the_actor():
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    config = small(hidden_sizes=(6,), critic_hidden_sizes=(7, 5), critic_activation="relu")
    network = make_network(env, config)
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers, x = params["params"], np.float64(obs)
    _, distribution, value = network.apply(params, (), obs, None)
    actor = np.tanh(dense(layers["actor_0"], x))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], actor), atol=1e-5)
    critic = np.maximum(dense(layers["critic_1"], np.maximum(dense(layers["critic_0"], x), 0)), 0)
    np.testing.assert_allclose(value, dense(layers["value"], critic)[..., 0], atol=1e-5)
    assert set(layers) == {"actor_0", "critic_0", "critic_1", "policy", "value"}


def test_swish_is_silu():
    env, obs = env_of(box(-1, 1, (3,)), Discrete(4)), sample_block(box(-1, 1, (3,)), T, N)
    networks = [make_network(env, small(activation=name)) for name in ("swish", "silu")]
    params = params_of(networks[0])
    a, b = (network.apply(params, (), obs, None)[2] for network in networks)
    np.testing.assert_array_equal(a, b)
