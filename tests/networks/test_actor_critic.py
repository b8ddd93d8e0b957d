"""Networks: every space, masks, asymmetric observations, layers against NumPy, precision, first ratio 1."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import ACTIONS, OBSERVATIONS, env_of, params_of, sample_block
from probes import masked, quick_jit, reward_by_many_actions, reward_by_mixed_action

from purejaxppo import ppo
from purejaxppo.assembly import make_ppo
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig
from purejaxppo.distributions import Categorical, DiagonalGaussian
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, box, encode, sample_space
from purejaxppo.networks.actor_critic import from_module, make_network, mlp
from purejaxppo.networks.encoders import PatchConvolution, to_inputs
from purejaxppo.networks.policy_heads import Shaped
from purejaxppo.networks.protocol import Network
from purejaxppo.networks.recurrent import CELLS

KINDS = ("mlp", "cnn", "gru", "lstm", "lru")
SMALL = NetworkConfig(hidden_sizes=(8,), rnn_size=4)
T, N = 3, 2


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def lead(space, *axes):
    """Shapes and dtypes of elements of a space with leading axes; nothing is computed."""
    one = jax.eval_shape(partial(sample_space, space), jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype), one)


def uniforms(rng, *shape):
    return jnp.asarray(rng.uniform(-1, 1, size=shape), jnp.float32)


# --- every space -----------------------------------------------------------------------------------------------------


def check_shapes(env, config):
    """What comes out of a block of time has the shapes and dtypes of the protocol and of the action space."""
    network = make_network(env, config)

    def run(key, obs):
        carry, (init_key, action_key) = network.initial_rnn_state(N), jax.random.split(key)
        next_carry, distribution, value = network.apply(network.init(init_key), carry, obs, jnp.zeros((T, N), bool))
        action = distribution.sample(action_key)
        scalars = (value, distribution.log_prob(action), distribution.entropy(), distribution.kl(distribution))
        return carry, next_carry, distribution, action, distribution.mode(), scalars

    key = jax.eval_shape(lambda: jax.random.key(0))
    carry, next_carry, distribution, action, mode, scalars = jax.eval_shape(run, key, lead(env.observation_space, T, N))
    assert shapes(carry) == shapes(next_carry)
    assert all(x.shape[0] == N for x in jax.tree.leaves(carry))
    assert all(x.shape[:2] == (T, N) and x.dtype == jnp.float32 for x in jax.tree.leaves(distribution))
    assert shapes(action) == shapes(mode) == shapes(lead(env.action_space, T, N))
    assert all(x.shape == (T, N) and x.dtype == jnp.float32 for x in scalars)
    noise = jax.eval_shape(lambda k: distribution.noise(k, (5,)), key)  # as the rollout draws it, from shapes alone
    assert all(x.shape[:3] == (5, T, N) for x in jax.tree.leaves(noise))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_every_observation_space_with_every_kind(name, kind):
    env = env_of(OBSERVATIONS[name], Discrete(3))
    if kind == "cnn" and name in ("vector", "scalar", "int vector", "video", "discrete", "multi-discrete"):
        with pytest.raises(ValueError, match="needs an image"):
            make_network(env, small(kind=kind))
    else:
        check_shapes(env, small(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_space_with_every_kind(name, kind):
    observation = OBSERVATIONS["bool image" if kind == "cnn" else "vector"]
    check_shapes(env_of(observation, ACTIONS[name]), small(kind=kind, shared_torso=name == "box", layer_norm=True))


@pytest.mark.parametrize("name", ["box", "one number", "dict", "tuple"])
@pytest.mark.parametrize("action_distribution", ["gaussian", "tanh_gaussian"])
def test_every_continuous_policy(name, action_distribution):
    config = small(action_distribution=action_distribution, state_dependent_std=True, compute_dtype="bfloat16")
    check_shapes(env_of(OBSERVATIONS["vector"], ACTIONS[name]), config)


def test_features_are_the_encoded_observation():
    spaces = {name: space for name, space in OBSERVATIONS.items() if name not in ("asymmetric", "masked")}
    observations = {name: sample_block(space, T, N) for name, space in spaces.items()}

    @quick_jit
    def both(observations):
        each = {name: jax.vmap(jax.vmap(partial(encode, space)))(observations[name]) for name, space in spaces.items()}
        return each, {name: to_inputs(space, observations[name], False).vector for name, space in spaces.items()}

    expected, found = both(observations)
    for name, space in spaces.items():
        scale = np.concatenate([np.full(n, s) for n, s in leaf_scales(space)])
        assert found[name].dtype == jnp.float32
        np.testing.assert_allclose(found[name], np.asarray(expected[name]) * scale.astype(np.float32), rtol=1e-6)


def leaf_scales(space):
    """(size of the code, factor) of every leaf: bytes are divided by 255."""
    for leaf in jax.tree.leaves(space):
        size = sum(leaf.nvec) if isinstance(leaf, MultiDiscrete) else leaf.n if isinstance(leaf, Discrete) else None
        is_bytes = isinstance(leaf, Box) and leaf.dtype == np.uint8
        yield leaf.low.size if size is None else size, 1 / 255 if is_bytes else 1.0


def test_images_are_stored_in_bytes_in_the_rollout():
    env = env_of(OBSERVATIONS["uint8 image"], Discrete(3))
    algo = make_ppo(env, make_network(env, small(kind="cnn")), Config(num_envs=N, num_steps=4, num_minibatches=1))
    state = jax.eval_shape(algo.init, jax.random.key(0), Hyperparams())
    _, rollout = jax.eval_shape(partial(ppo.collect_rollout, algo.components), state, jax.random.key(1))
    assert rollout.obs.dtype == rollout.final_obs.dtype == jnp.uint8


# --- layers against NumPy --------------------------------------------------------------------------------------------


def dense(params, x):
    return x @ np.float64(params["kernel"]) + np.float64(params["bias"])


def test_the_default_is_two_tanh_perceptrons():
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    network = mlp(env, (6, 5))
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers = params["params"]
    x = {"actor": np.float64(obs), "critic": np.float64(obs)}
    for name in x:
        for i in range(2):
            x[name] = np.tanh(dense(layers[f"{name}_{i}"], x[name]))
    _, distribution, value = network.apply(params, (), obs, jnp.zeros((T, N), bool))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x["actor"]), atol=1e-6)
    np.testing.assert_allclose(value, dense(layers["value"], x["critic"])[..., 0], atol=1e-6)


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
    """x [..., H, W, C] by loops over the places of the kernel, no padding."""
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
    """Small images: 16 3 x 3 kernels; from 36 pixels on the strides of the Nature paper."""
    env = env_of(box(0, 255, shape, dtype), Discrete(4))
    network = make_network(env, small(kind="cnn", activation="relu", shared_torso=True))
    params, obs = params_of(network), sample_block(env.observation_space, 1, 2)
    layers = params["params"]
    x = np.float64(obs) / (255 if dtype == np.uint8 else 1)
    x = x if len(shape) == 3 else x[..., None]
    kernels = {3: [(3, 16, 1)], 8: [(8, 32, 4), (4, 64, 2), (3, 64, 1)]}[8 if shape[0] >= 36 else 3]
    for i, (size, width, stride) in enumerate(kernels):
        assert layers[f"shared_conv0_{i}"]["kernel"].shape == (size, size, x.shape[-1], width)
        x = np.maximum(slow_convolution(layers[f"shared_conv0_{i}"], x, stride), 0)
    x = np.maximum(dense(layers["shared_0"], x.reshape(1, 2, -1)), 0)
    _, distribution, _ = quick_jit(network.apply)(params, (), obs, jnp.zeros((1, 2), bool))
    np.testing.assert_allclose(distribution.logits, dense(layers["policy"], x), atol=1e-5)


def test_convolution_by_patches_is_convolution():
    """The same parameters, outputs and gradients as flax's own layer of this shape, in float32 and bfloat16."""
    image = sample_block(box(-1, 1, (6, 5, 4)), 2, 3)
    for dtype in (jnp.float32, jnp.bfloat16):
        options = {"kernel_init": nn.initializers.ones, "dtype": dtype}
        by_patches, convolution = PatchConvolution(7, 3, **options), nn.Conv(7, (3, 3), padding="VALID", **options)
        params = params_of(Network(lambda key, m=convolution: m.init(key, image), convolution.apply))

        @quick_jit
        def both(params, pair=(by_patches, convolution)):
            def loss(params, layer):
                return jnp.sum(jnp.sin(layer.apply(params, image).astype(jnp.float32)))

            return [(layer.apply(params, image), jax.grad(loss)(params, layer)) for layer in pair]

        found, expected = both(params)
        assert shapes(found) == shapes(expected)
        assert shapes(jax.eval_shape(by_patches.init, jax.random.key(0), image)) == shapes(params)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.float64(a), np.float64(b), atol=1e-5 if dtype == jnp.float32 else 0.3)


@pytest.mark.parametrize("kind", ["gru", "lstm", "lru"])
def test_a_cnn_in_front_of_a_memory(kind):
    """Convolutions and dense layers of every image alone, as loops, then the cell over their features."""
    env = env_of(box(0, 255, (5, 6, 2), np.uint8), Discrete(4))
    network = make_network(env, small(kind=kind, encoder="cnn", activation="relu", shared_torso=True))
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    layers, reset = params["params"], jnp.asarray([[True, False], [False, False], [False, True]])
    x = np.maximum(slow_convolution(layers["shared_conv0_0"], np.float64(obs) / 255, 1), 0)
    x = np.maximum(dense(layers["shared_0"], x.reshape(T, N, -1)), 0)
    cell, carry = CELLS[kind](4), network.initial_rnn_state(N)
    memory, x = cell.apply({"params": layers[f"shared_{kind}"]}, carry["shared"], jnp.asarray(x, jnp.float32), reset)
    after, distribution, value = quick_jit(network.apply)(params, carry, obs, reset)
    for a, b in zip(jax.tree.leaves(after["shared"]), jax.tree.leaves(memory), strict=True):
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


def primitives(jaxpr):
    """Names and output dtypes of all operations, those of inner functions too."""
    for eqn in jaxpr.eqns:
        inner = [x.jaxpr for x in eqn.params.values() if hasattr(x, "jaxpr")]
        if not inner:
            yield eqn.primitive.name, eqn.outvars[0].aval.dtype
        for x in inner:
            yield from primitives(x)


def operations(network, obs):
    params = jax.eval_shape(network.init, jax.random.key(0))
    run = lambda params, obs: network.apply(params, (), obs, None)[1:]  # noqa: E731
    return list(primitives(jax.make_jaxpr(run)(params, obs).jaxpr))


def test_the_default_network_is_nothing_but_products_sums_and_tanh(monkeypatch):
    monkeypatch.setattr("purejaxppo.networks.dense.FEW_ROWS", 0)  # else the heads are a product for each column,
    monkeypatch.setattr("purejaxppo.networks.dense.FEW_ENVS", 0)  # and the first layers a sum
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    names = [name for name, _ in operations(mlp(env), lead(env.observation_space, T, N))]
    assert names.count("dot_general") == 6
    assert names.count("tanh") == 4
    assert names.count("add") == 6
    shaping = set(names) - {"dot_general", "tanh", "add"}
    assert shaping <= {"reshape", "broadcast_in_dim", "squeeze"}  # of biases and of the value's last axis
    assert len(names) <= 6 * 4 + 4 + 1


# --- initialisation --------------------------------------------------------------------------------------------------


def test_initial_policy_is_nearly_uniform_and_kernels_are_orthogonal(key):
    env = env_of(box(-3, 3, (3,)), {"a": Discrete(4), "b": box(-1, 1, (2,))})
    network = mlp(env, (16, 16), log_std_init=-0.5)
    params = quick_jit(network.init)(key)
    for name, layer in params["params"].items():
        if name == "log_std":
            np.testing.assert_array_equal(layer, np.full(2, -0.5, np.float32))
            continue
        gain = {"policy": 1e-2, "value": 1.0}.get(name, 2**0.5)
        kernel = np.float64(layer["kernel"])
        gram = kernel @ kernel.T if kernel.shape[0] <= kernel.shape[1] else kernel.T @ kernel
        np.testing.assert_allclose(gram / gain**2, np.eye(len(gram)), atol=1e-5)
        assert not layer["bias"].any()
    assert np.abs(params["params"]["actor_0"]["kernel"] - params["params"]["critic_0"]["kernel"]).max() > 0.1
    _, distribution, _ = network.apply(params, (), sample_block(env.observation_space, 1, 64), None)
    assert np.abs(jax.nn.softmax(distribution.parts["a"].logits) - 0.25).max() < 0.02
    assert np.abs(distribution.parts["b"].mean).max() < 0.05


def test_state_dependent_deviation_starts_at_log_std_init_and_cannot_overflow():
    env = env_of(box(-1, 1, (3,)), box(-1, 1, (2,)))
    network = mlp(env, (8,), state_dependent_std=True, log_std_init=-1.0)
    params, obs = params_of(network), sample_block(env.observation_space, T, N)
    assert "log_std" not in params["params"]

    def log_std(scale):
        head = jax.tree.map(lambda x: scale * x, params["params"]["policy"])
        return network.apply({"params": {**params["params"], "policy": head}}, (), obs, None)[1].log_std

    np.testing.assert_array_equal(log_std(0.0), np.full((T, N, 2), -1.0, np.float32))
    assert np.ptp(log_std(1.0), axis=(0, 1)).min() > 0.01  # it does depend on the state
    assert np.abs(log_std(1e9) + 1.0).max() <= 5.0


# --- masks -----------------------------------------------------------------------------------------------------------

BOOLS = {n: box(0, 1, (n,), bool) for n in (2, 3, 5)}
# name: action space, mask space, and the masks of the categorical parts as one array [..., Σ n]
MASKS = {
    "discrete": (Discrete(5), BOOLS[5], lambda m: m),
    "numbers": (Discrete(5), box(0, 1, (5,), np.float32), lambda m: m.astype(np.float32)),
    "concatenated": (MultiDiscrete((3, 2)), BOOLS[5], lambda m: m),
    "tuple": (MultiDiscrete((3, 2)), (BOOLS[3], BOOLS[2]), lambda m: (m[..., :3], m[..., 3:])),
    "dict": (
        {"go": Discrete(3), "push": box(-1, 1, (2,)), "turn": Discrete(2)},
        {"go": BOOLS[3], "turn": BOOLS[2]},
        lambda m: {"go": m[..., :3], "turn": m[..., 3:]},
    ),
    "compound": (
        (Discrete(3), box(-1, 1, (2,)), Discrete(2)),
        (BOOLS[3], (), BOOLS[2]),
        lambda m: (m[..., :3], (), m[..., 3:]),
    ),
}


def masked_case(name, seed=0):
    """(network, params, obs of a mask [T, N, 5], mask): the last mask leaves one action of each part."""
    actions, mask_space, shape = MASKS[name]
    network = mlp(env_of({"x": box(-1, 1, (3,)), "action_mask": mask_space}, actions), (8,))
    rng = np.random.default_rng(seed)
    mask = rng.random((T, N, 5)) < 0.5
    mask[..., 0] = mask[..., 4] = True
    mask[-1] = [True, False, False, False, True] if name not in ("discrete", "numbers") else [False] * 4 + [True]
    x = uniforms(rng, T, N, 3)
    return network, params_of(network), lambda m: {"x": x, "action_mask": jax.tree.map(jnp.asarray, shape(m))}, mask


def probabilities(distribution):
    """π of all categorical parts side by side [T, N, 5]."""
    parts = jax.tree.leaves(getattr(distribution, "parts", distribution), is_leaf=lambda x: hasattr(x, "logits"))
    logits = [x for part in parts if hasattr(part, "logits") for x in jax.tree.leaves(part.logits)]
    return np.concatenate([jax.nn.softmax(x) for x in logits], axis=-1)


@pytest.mark.parametrize("name", MASKS)
def test_masked_actions_have_probability_zero_and_leave_the_rest_as_it_was(name):
    network, params, obs_of, mask = masked_case(name)
    _, distribution, value = network.apply(params, (), obs_of(mask), None)
    _, free, free_value = network.apply(params, (), obs_of(np.ones_like(mask)), None)
    np.testing.assert_array_equal(probabilities(distribution)[~mask], 0.0)
    np.testing.assert_array_equal(value, free_value)  # a mask is no feature
    parts = [slice(0, 5)] if name in ("discrete", "numbers") else [slice(0, 3), slice(3, 5)]
    expected = probabilities(free).astype(np.float64) * mask
    for part in parts:
        expected[..., part] /= expected[..., part].sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities(distribution), expected, atol=1e-6)
    assert params["params"]["actor_0"]["kernel"].shape == (3, 8)


@pytest.mark.parametrize("name", MASKS)
def test_gradients_are_finite_with_all_but_one_action_masked(name, key):
    network, params, obs_of, mask = masked_case(name)

    def loss(params, key):
        _, distribution, value = network.apply(params, (), obs_of(mask), None)
        action = jax.lax.stop_gradient(distribution.sample(key))
        terms = (distribution.log_prob(action), distribution.entropy(), distribution.kl(distribution), value)
        return sum(jnp.sum(x) for x in terms)

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(quick_jit(jax.grad(loss))(params, key)))


def test_masked_actions_are_never_sampled(key):
    network, params, obs_of, mask = masked_case("discrete")
    _, distribution, _ = network.apply(params, (), obs_of(mask), None)
    noise = distribution.noise(key, (200_000,))  # 1.2e6 actions
    draws = np.asarray(jax.jit(jax.vmap(distribution.sample_from))(noise))
    counts = np.stack([np.bincount(draws[:, t, n], minlength=5) for t in range(T) for n in range(N)]).reshape(T, N, 5)
    assert (counts[~mask] == 0).all()
    np.testing.assert_allclose(counts / 200_000, probabilities(distribution), atol=0.01)


@pytest.mark.parametrize("name", MASKS)
def test_a_state_without_an_allowed_action_has_no_policy(name):
    """NaN there and nowhere else: no forbidden action is played as if nothing were wrong."""
    network, params, obs_of, mask = masked_case(name)
    _, before, _ = network.apply(params, (), obs_of(mask), None)
    mask[0, 0] = False
    _, distribution, value = network.apply(params, (), obs_of(mask), None)
    found = probabilities(distribution)
    assert np.isnan(found[0, 0]).all()
    assert np.isnan(distribution.entropy()[0, 0])
    found[0, 0] = probabilities(before)[0, 0]
    np.testing.assert_array_equal(found, probabilities(before))
    assert np.isfinite(value).all()


@pytest.mark.parametrize(
    ("actions", "mask"),
    [
        (Discrete(5), BOOLS[3]),
        (Discrete(5), (BOOLS[5],)),
        (MultiDiscrete((3, 2)), (BOOLS[2], BOOLS[3])),
        (box(-1, 1, (2,)), BOOLS[2]),
        ({"a": Discrete(3)}, {"b": BOOLS[3]}),
        ({"a": Discrete(3)}, BOOLS[3]),
        ((Discrete(3), Discrete(2)), (BOOLS[3],)),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(actions, mask):
    with pytest.raises(ValueError, match="does not fit the action space"):
        mlp(env_of({"x": box(-1, 1, (3,)), "action_mask": mask}, actions))


# --- asymmetric observations -----------------------------------------------------------------------------------------


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


# --- shapes of actions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_actions_of_any_shape_have_the_density_of_their_numbers(shape):
    env = env_of(box(-1, 1, (3,)), {"a": box(-2, 2, shape), "b": Discrete(3)})
    network = mlp(env, (8,), log_std_init=-0.3)
    params, obs = params_of(network), sample_block(env.observation_space, T, N)

    @quick_jit
    def run(params, key):
        _, distribution, _ = network.apply(params, (), obs, None)
        action = distribution.sample(key)
        return distribution, action, distribution.log_prob(action)

    distribution, action, log_prob = run(params, jax.random.key(1))
    joint = distribution.base if shape != (1,) else distribution
    assert isinstance(distribution, Shaped) == (shape != (1,))
    mean, log_std = (np.float64(x) for x in joint.parts["a"])
    z = (np.float64(action["a"]).reshape(mean.shape) - mean) / np.exp(log_std)
    density = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
    log_probs = np.float64(jax.nn.log_softmax(joint.parts["b"].logits))
    density += np.take_along_axis(log_probs, np.asarray(action["b"])[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_prob, density, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(distribution.mode()["a"]).reshape(mean.shape), np.float32(mean))


def test_tanh_policy_keeps_to_the_bounds_of_its_space():
    low, high = np.float32([-1, 0, 5]), np.float32([1, 10, 6])
    network = mlp(env_of(box(-1, 1, (3,)), Box(low, high)), (8,), action_distribution="tanh_gaussian")
    params = {"params": params_of(network)["params"] | {"log_std": jnp.full(3, 2.0)}}
    _, distribution, _ = network.apply(params, (), sample_block(box(-1, 1, (3,)), 1, 1000), None)
    action = np.asarray(distribution.to_env(distribution.sample(jax.random.key(1))))
    assert (action >= low).all()
    assert (action <= high).all()
    unit = (action - low) / (high - low)
    np.testing.assert_allclose(unit.min((0, 1)), 0.0, atol=1e-3)
    np.testing.assert_allclose(unit.max((0, 1)), 1.0, atol=1e-3)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_of_the_layers_only(kind):
    """Parameters, gradients, carry and outputs are float32, and the outputs near those of float32."""
    space = OBSERVATIONS["bool image" if kind == "cnn" else "vector"]
    configs = [small(kind=kind, compute_dtype=dtype) for dtype in ("float32", "bfloat16")]
    networks = [make_network(env_of(space, Discrete(3)), config) for config in configs]
    params, obs = params_of(networks[0]), sample_block(space, T, N)
    assert shapes(params_of(networks[1])) == shapes(params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))

    @quick_jit
    def run(params):
        outputs = [n.apply(params, n.initial_rnn_state(N), obs, jnp.zeros((T, N), bool)) for n in networks]
        loss = lambda params, n: jnp.sum(n.apply(params, n.initial_rnn_state(N), obs, jnp.zeros((T, N), bool))[2])  # noqa: E731
        return outputs, jax.grad(loss)(params, networks[1])

    (exact, rough), grads = run(params)
    assert shapes(exact) == shapes(rough)
    assert shapes(grads) == shapes(params)
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(rough), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.06)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(rough), strict=True))


def test_bfloat16_products_except_those_of_the_heads(monkeypatch):
    monkeypatch.setattr("purejaxppo.networks.dense.FEW_ROWS", 0)  # else the heads are a product for each column,
    monkeypatch.setattr("purejaxppo.networks.dense.FEW_ENVS", 0)  # and the first layers a sum
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    found = operations(mlp(env, compute_dtype="bfloat16"), lead(env.observation_space, T, N))
    dtypes = [dtype for name, dtype in found if name == "dot_general"]
    assert sorted(map(str, dtypes)) == 4 * ["bfloat16"] + 2 * ["float32"]


# --- networks of one's own -------------------------------------------------------------------------------------------

CONFIG = Config(num_envs=4, num_steps=8, num_epochs=1, num_minibatches=2, total_timesteps=64)


def one_update(env, network):
    """Metrics of one iteration, and the state after it."""
    algo = make_ppo(env, network, CONFIG)

    @quick_jit
    def run(params, key):
        return algo.update(algo.init(key, Hyperparams())._replace(params=params), Hyperparams())

    return run(params_of(network), jax.random.key(0))


class Mine(nn.Module):
    """The example of `from_module`."""

    @nn.compact
    def __call__(self, obs):
        x = nn.relu(nn.Dense(128)(obs))
        return Categorical(nn.Dense(4)(x)), nn.Dense(1)(x)[..., 0]


class Wrong(nn.Module):
    """Forgets to take the last axis off the value."""

    @nn.compact
    def __call__(self, obs):
        return Categorical(nn.Dense(4)(obs)), nn.Dense(1)(obs)


def four_actions():
    return env_of(box(-1, 1, (3,)), Discrete(4))


def test_a_linen_module_of_ones_own_trains():
    env = four_actions()
    state, metrics = one_update(env, from_module(Mine(), env))
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_a_value_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"value of Wrong must be \[T, N\]"):
        one_update(four_actions(), from_module(Wrong(), four_actions()))


# --- the rollout and its replay --------------------------------------------------------------------------------------


def test_one_update_of_a_cnn_with_an_asymmetric_critic():
    env = env_of(OBSERVATIONS["asymmetric"], Discrete(3))
    state, metrics = one_update(env, make_network(env, small(kind="cnn")))
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("env", "options"),
    [
        (env_of(OBSERVATIONS["tuple"], ACTIONS["tuple"]), {"action_distribution": "tanh_gaussian"}),
        (env_of(OBSERVATIONS["matrix"], ACTIONS["matrix"]), {"state_dependent_std": True, "layer_norm": True}),
        (masked(), {"shared_torso": True}),
        (reward_by_many_actions(), {}),
        (reward_by_mixed_action(), {}),
    ],
    ids=["tuples", "matrices", "masked", "multi-discrete", "mixed"],
)
def test_the_first_ratio_is_one(env, options):
    """The density of the stored actions is that under which they were sampled, also where the environment clips."""
    network = mlp(env, (8,), **options)
    algo = make_ppo(env, network, CONFIG)

    @quick_jit
    def run(params, key):
        state = algo.init(key, Hyperparams())._replace(params=params)
        _, rollout = ppo.collect_rollout(algo.components, state, state.key)
        _, distribution, _ = network.apply(params, (), rollout.obs, rollout.is_first)
        return rollout.distribution.log_prob(rollout.action), distribution.log_prob(rollout.action), rollout

    old, new, rollout = run(params_of(network), jax.random.key(0))
    np.testing.assert_allclose(new, old, atol=1e-5)
    assert shapes(rollout.action) == shapes(lead(env.action_space, CONFIG.num_steps, CONFIG.num_envs))
    if isinstance(rollout.obs, dict):
        assert np.take_along_axis(np.asarray(rollout.obs["action_mask"]), rollout.action[..., None], -1).all()


# --- what is refused -------------------------------------------------------------------------------------------------

ASYMMETRIC = {"actor": box(-1, 1, (3,)), "critic": box(-1, 1, (4,))}


@pytest.mark.parametrize(
    ("observation", "actions", "config", "message"),
    [
        (box(-1, 1, (3,)), Discrete(2), {"kind": "cnn"}, "needs an image"),
        (box(0, 1, (2, 9)), Discrete(2), {"kind": "cnn"}, 'kind = "cnn" needs an image'),
        (box(-1, 1, (3,)), Discrete(2), {"kind": "gru", "encoder": "cnn"}, 'encoder = "cnn" needs an image'),
        (ASYMMETRIC, Discrete(2), {"shared_torso": True}, "shared_torso must be false"),
        ({"action_mask": BOOLS[2]}, Discrete(2), {}, "nothing to see"),
        (box(-1, 1, (3,)), {}, {}, "action space is empty"),
        (box(-1, 1, (3,)), box(0, 9, (2,), np.int32), {}, "use MultiDiscrete"),
        (box(-1, 1, (3,)), box(-1, np.inf, (2,)), {"action_distribution": "tanh_gaussian"}, "finite bounds"),
        (box(-1, 1, (3,)), box(1, 1, (2,)), {"action_distribution": "tanh_gaussian"}, "low < high"),
        (box(-1, 1, (3,)), "left or right", {}, "type str"),
    ],
)
def test_spaces_that_do_not_go_with_the_network_are_refused(observation, actions, config, message):
    with pytest.raises(ValueError, match=message):
        make_network(env_of(observation, actions), NetworkConfig(**config))


@pytest.mark.parametrize("name", ["x", "action_mask"])
def test_integers_and_masks_that_were_normalised_are_refused(name):
    """Numbers around 0 in the place of a mask would allow nearly everything, silently."""
    network = mlp(env_of({"x": Discrete(3), "action_mask": BOOLS[2]}, Discrete(2)))
    obs = {"x": jnp.zeros((T, N), jnp.int32), "action_mask": jnp.ones((T, N, 2), bool)}
    obs[name] = obs[name].astype(jnp.float32)
    with pytest.raises(ValueError, match="normalised"):
        network.apply(params_of(network), (), obs, None)


def test_a_bad_config_is_refused_with_all_its_problems():
    with pytest.raises(ConfigError, match="2 problems"):
        make_network(four_actions(), NetworkConfig(kind="transformer", hidden_sizes=(0,)))


def test_gaussian_policy_is_what_boxes_get():
    network = mlp(env_of(box(-1, 1, (3,)), box(-np.inf, np.inf, (2,))), log_std_init=0.7)
    _, distribution, _ = network.apply(params_of(network), (), jnp.zeros((T, N, 3)), None)
    assert isinstance(distribution, DiagonalGaussian)


# --- what a network of the user's own may get wrong ------------------------------------------------------------------


def own(num_logits=4, squeeze=True, carry=lambda c: c, start=lambda n: ()):
    """A Network over Box(2) with the faults asked for."""

    def apply(params, memory, obs, reset):
        value = obs @ params["value"]
        return carry(memory), Categorical(obs @ params["policy"]), value[..., 0] if squeeze else value

    return Network(lambda key: {"policy": jnp.zeros((2, num_logits)), "value": jnp.zeros((2, 1))}, apply, start)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"squeeze": False}, r"its value must be \[T, N\], float32 \[1, 2\] here, not float32 \[1, 2, 1\]"),
        ({"num_logits": 3}, "it has 3 logits for 4 actions"),
        (
            {"start": lambda n: jnp.zeros(n), "carry": lambda c: c[:, None]},
            r"the carry float32 \[2\] comes back as float32 \[2, 1\]",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_is_wrong(faults, message):
    env = env_of(box(-1, 1, (2,)), Discrete(4))
    config = Config(num_envs=2, num_steps=4, num_minibatches=2)
    assert make_ppo(env, own(), config).network.initial_rnn_state(3) == ()
    with pytest.raises(ValueError, match=message):
        make_ppo(env, own(**faults), config)


def test_a_policy_for_other_actions_is_refused():
    env = env_of(box(-1, 1, (2,)), box(-1, 1, (3,)))
    with pytest.raises(ValueError, match=r"its actions .* are int32 \[1, 2\], not float32 \[1, 2, 3\]"):
        make_ppo(env, own(), Config(num_envs=2, num_steps=4, num_minibatches=2))


def test_trpo_refuses_an_objective():
    env, trpo = env_of(box(-1, 1, (2,)), Discrete(4)), Config(num_envs=2, num_steps=4, policy_step="trpo")
    with pytest.raises(ValueError, match="an objective of your own"):
        make_ppo(env, own(), trpo, objective=lambda ratio, advantage, kl, h: ratio * advantage)
    with pytest.raises(ConfigError, match="does not accept an objective"):
        make_ppo(env, own(), Config(num_envs=2, num_steps=4, policy_step="trpo", objective="kl"))
