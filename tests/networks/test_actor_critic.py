"""Actor-critics: every space and kind, the default compared with NumPy, precision, user modules, first ratio 1."""

from functools import partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from nets import (
    ACTIONS,
    BOOLS,
    OBSERVATIONS,
    N,
    T,
    dense,
    env_of,
    lead,
    params_of,
    sample_block,
    shapes,
    small,
    x64,
)
from probes import masked, quick_jit, reward_by_many_actions, reward_by_mixed_action
from readable import readable
from slow import slow_except

from purejaxppo import ppo
from purejaxppo.assembly import make_ppo
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig
from purejaxppo.distributions import Categorical
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks import initializers
from purejaxppo.networks.actor_critic import from_module, make_network, mlp
from purejaxppo.networks.protocol import check_fit

KINDS = ("mlp", "cnn", "gru", "lstm", "lru")


# --- every space ------------------------------------------------------------------------------------------------------


def check_shapes(env, config):
    """Check that the outputs for a block of time have the shapes and dtypes of the protocol and of the action space."""
    network = make_network(env, config)

    def run(key, obs):
        rnn_state, (init_key, action_key) = network.initial_rnn_state(N), jax.random.split(key)
        after, distribution, value = network.apply(network.init(init_key), rnn_state, obs, jnp.zeros((T, N), bool))
        action = distribution.sample(action_key)
        scalars = (value, distribution.log_prob(action), distribution.entropy(), distribution.kl(distribution))
        return rnn_state, after, distribution, action, distribution.mode(), scalars

    key = jax.eval_shape(lambda: jax.random.key(0))
    rnn_state, after, distribution, action, mode, scalars = jax.eval_shape(run, key, lead(env.observation_space, T, N))
    assert shapes(rnn_state) == shapes(after)
    assert all(x.shape[0] == N for x in jax.tree.leaves(rnn_state))
    assert all(x.shape[:2] == (T, N) and x.dtype == jnp.float32 for x in jax.tree.leaves(distribution))
    assert shapes(action) == shapes(mode) == shapes(lead(env.action_space, T, N))
    assert all(x.shape == (T, N) and x.dtype == jnp.float32 for x in scalars)
    noise = jax.eval_shape(lambda k: distribution.noise(k, (5,)), key)  # from shapes only, as in a rollout
    assert all(x.shape[:3] == (5, T, N) for x in jax.tree.leaves(noise))


NOT_IMAGES = ("vector", "scalar", "int vector", "symbol vector", "video", "discrete", "multi-discrete")


def in_turn(names):
    """Return all pairs of a name and a kind of network; the fast tests have one kind for each name, in turn."""
    fast = [(name, KINDS[i % len(KINDS)]) for i, name in enumerate(names)]
    fast += [(name, "mlp") for name in NOT_IMAGES if (name, "cnn") in fast]  # which only shows that it is refused
    return slow_except([(name, kind) for name in names for kind in KINDS], *fast)


@pytest.mark.parametrize(("name", "kind"), in_turn(OBSERVATIONS))
def test_every_observation_space_with_every_kind(name, kind):
    env = env_of(OBSERVATIONS[name], Discrete(3))
    if kind == "cnn" and name in NOT_IMAGES:
        with pytest.raises(ValueError, match="needs an image"):
            make_network(env, small(kind=kind))
    else:
        check_shapes(env, small(kind=kind))


@pytest.mark.parametrize(("name", "kind"), in_turn(ACTIONS))
def test_every_action_space_with_every_kind(name, kind):
    observation = OBSERVATIONS["bool image" if kind == "cnn" else "vector"]
    check_shapes(env_of(observation, ACTIONS[name]), small(kind=kind, shared_torso=name == "box", layer_norm=True))


@pytest.mark.parametrize("name", ["box", "one number", "dict", "tuple"])
@pytest.mark.parametrize("action_distribution", ["gaussian", "tanh_gaussian"])
def test_every_continuous_policy(name, action_distribution):
    config = small(action_distribution=action_distribution, state_dependent_std=True, compute_dtype="bfloat16")
    check_shapes(env_of(OBSERVATIONS["vector"], ACTIONS[name]), config)


# --- the default ------------------------------------------------------------------------------------------------------


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


def test_the_default_network_consists_of_products_sums_and_tanh(monkeypatch):
    monkeypatch.setattr("purejaxppo.networks.cpu_layers.FEW_ROWS", 0)  # else the heads are a product for each column,
    monkeypatch.setattr("purejaxppo.networks.cpu_layers.FEW_ENVS", 0)  # and the first layers a sum
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    names = [name for name, _ in operations(mlp(env), lead(env.observation_space, T, N))]
    assert names.count("dot_general") == 6
    assert names.count("tanh") == 4
    assert names.count("add") == 6
    shaping = set(names) - {"dot_general", "tanh", "add"}
    assert shaping <= {"reshape", "broadcast_in_dim", "squeeze"}  # of biases and of the value's last axis
    assert len(names) <= 6 * 4 + 4 + 1


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
    assert np.abs(jax.nn.softmax(distribution.components["a"].logits) - 0.25).max() < 0.02
    assert np.abs(distribution.components["b"].mean).max() < 0.05


LARGEST = {"lecun_uniform": 3**0.5, "lecun_normal": 2 / 0.87962566103423978}  # entry in units of 1 / sqrt(inputs)


@pytest.mark.parametrize("kernel_init", LARGEST)
@pytest.mark.parametrize(("kind", "observation"), [("mlp", "vector"), ("cnn", "bool image"), ("gru", "vector")])
def test_kernel_init_is_that_of_all_dense_layers_convolutions_and_heads(kernel_init, kind, observation, key):
    network = make_network(env_of(OBSERVATIONS[observation], Discrete(3)), small(kind=kind, kernel_init=kernel_init))
    layers = quick_jit(network.init)(key)["params"]
    cells = {name: layers.pop(name) for name in list(layers) if name.endswith("gru")}
    assert len(cells) == (2 if kind == "gru" else 0)
    assert {"policy", "value", "actor_0", "critic_0"} <= layers.keys()
    for layer in layers.values():
        kernel = np.float64(layer["kernel"]).reshape(-1, layer["kernel"].shape[-1])
        scaled = np.abs(kernel) * np.sqrt(len(kernel)) / LARGEST[kernel_init]
        assert scaled.max() <= 1.0 + 1e-6
        assert np.sqrt(np.mean(scaled**2)) > 0.2  # neither has the gain of a head
        assert not layer["bias"].any()
    for cell in cells.values():
        one_gate = np.float64(cell["recurrent"])[:, : len(cell["recurrent"])]
        np.testing.assert_allclose(one_gate.T @ one_gate, np.eye(len(one_gate)), atol=1e-5)


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", slow_except(KINDS, "mlp", "cnn", "gru"))
def test_only_the_layers_use_bfloat16(kind):
    """Parameters, gradients, recurrent states and outputs are float32; the outputs are near those of float32."""
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
    monkeypatch.setattr("purejaxppo.networks.cpu_layers.FEW_ROWS", 0)  # else the heads are a product for each column,
    monkeypatch.setattr("purejaxppo.networks.cpu_layers.FEW_ENVS", 0)  # and the first layers a sum
    env = env_of(box(-1, 1, (3,)), Discrete(4))
    found = operations(mlp(env, compute_dtype="bfloat16"), lead(env.observation_space, T, N))
    dtypes = [dtype for name, dtype in found if name == "dot_general"]
    assert sorted(map(str, dtypes)) == 4 * ["bfloat16"] + 2 * ["float32"]


def a_key():
    return jax.eval_shape(lambda: jax.random.key(0))


@pytest.mark.parametrize("kind", KINDS)
def test_initializers_are_not_traced_where_a_network_is_applied(kind, monkeypatch):
    """flax evaluates them at every use for their shapes; Gram-Schmidt took a third of the time to trace an update."""
    env = env_of(box(0, 255, (9, 9, 3), np.uint8, pixels=True), Discrete(4))
    network = make_network(env, small(kind=kind, encoder="cnn"))
    params, rnn_state = jax.eval_shape(lambda key: (network.init(key), network.initial_rnn_state(N)), a_key())
    monkeypatch.setattr(initializers, "gram_schmidt", lambda a: pytest.fail("traced"))
    jax.eval_shape(network.apply, params, rnn_state, lead(env.observation_space, T, N), jnp.zeros((T, N), bool))
    with pytest.raises(pytest.fail.Exception, match="traced"):
        jax.eval_shape(make_network(env, small(kind=kind, encoder="cnn")).init, a_key())


@pytest.mark.parametrize(
    ("kind", "observation", "actions", "options"),
    [
        ("mlp", "dict", "tuple", {"state_dependent_std": True, "layer_norm": True}),
        ("gru", "asymmetric", "dict", {"action_distribution": "tanh_gaussian"}),
        ("lstm", "large image", "multi-discrete", {"compute_dtype": "bfloat16"}),
        ("cnn", "symbols", "discrete", {"symbols": "embedding"}),
        ("lru", "masked", "discrete", {}),
    ],
)
def test_everything_is_float32_when_the_default_is_float64(kind, observation, actions, options):
    """Parameters, recurrent states, distributions, noise and values, under jax_enable_x64."""
    env, config = env_of(OBSERVATIONS[observation], ACTIONS[actions]), small(kind=kind, encoder="cnn", **options)
    with x64():
        check_shapes(env, config)
        network = make_network(env, config)
        params, rnn_state = jax.eval_shape(lambda key: (network.init(key), network.initial_rnn_state(2)), a_key())
        leaves = jax.tree.leaves((params, rnn_state))
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
    assert shapes(params) == shapes(jax.eval_shape(network.init, a_key()))


def test_initial_parameters_and_actions_are_the_same_with_float64_as_the_default():
    env = env_of(box(-1, 1, (3,)), {"a": box(-1, 1, (2,)), "b": Discrete(3)})
    network = make_network(env, small(kind="lru", shared_torso=True))
    obs = np.asarray(sample_block(env.observation_space, T, N))

    def run(key, obs):
        init_key, action_key = jax.random.split(key)
        params = network.init(init_key)
        _, distribution, value = network.apply(params, network.initial_rnn_state(N), obs, jnp.zeros((T, N), bool))
        return params, distribution.sample(action_key), value

    expected = jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(0), obs))
    with x64():
        found = jax.tree.map(np.asarray, quick_jit(run)(jax.random.key(0), obs))
    assert shapes(found) == shapes(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_actions_of_a_float64_box_reach_the_environment_as_float64(shape):
    env = env_of(box(-1, 1, (3,), np.float64), box(-1, 1, shape, np.float64))
    with x64():
        network = mlp(env, (8,))
        assert not check_fit(env, network, Config(num_envs=2, num_steps=4, num_minibatches=2))

        def act(key, obs):
            init_key, action_key = jax.random.split(key)
            _, distribution, _ = network.apply(network.init(init_key), (), obs, None)
            drawn = distribution.sample(action_key)
            return drawn, distribution.to_env(drawn), distribution.log_prob(drawn)

        drawn, action, log_prob = jax.eval_shape(act, a_key(), lead(env.observation_space, T, N))
    assert (drawn.dtype, log_prob.dtype) == (jnp.float32, jnp.float32)
    assert (action.dtype, action.shape) == (jnp.float64, (T, N, *shape))


# --- export -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "observation", "actions"),
    slow_except(
        [
            ("mlp", "dict", "tuple"),
            ("mlp", "vector", "discrete"),
            ("cnn", "pixels", "discrete"),
            ("cnn", "large image", "box"),
            ("cnn", "symbols", "multi-discrete"),
            ("gru", "vector", "discrete"),
            ("lstm", "vector", "box"),
            ("lru", "masked", "discrete"),
        ],
        ("mlp", "vector", "discrete"),
        ("cnn", "symbols", "multi-discrete"),
    ),
)
def test_acting_exports_with_a_symbolic_number_of_environments(kind, observation, actions):
    """One exported program gives the actions of the network for few and for many rows, greedy and sampled."""
    exported, act, arguments = exported_acting(kind, observation, actions)
    for rows in (2, 300):
        found, expected = quick_jit(exported.call)(*arguments(rows)), quick_jit(act)(*arguments(rows))
        assert shapes(found) == shapes(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_acting_of_a_masked_recurrent_network_exports():
    """Every output of the program has the symbolic number of environments as an axis."""
    exported, *_ = exported_acting("lru", "masked", "discrete")
    assert all("n" in map(str, x.shape) for x in exported.out_avals)


def exported_acting(kind, observation, actions):
    """Return the exported program of a network with n environments, its function, and its arguments for given n."""
    env = env_of(OBSERVATIONS[observation], ACTIONS[actions])
    network = make_network(env, small(kind=kind, symbols="embedding" if observation == "symbols" else "one_hot"))
    params = params_of(network)

    def act(params, rnn_state, obs, is_first, noise):
        rnn_state, distribution, value = network.apply(params, rnn_state, obs, is_first)
        return rnn_state, distribution.to_env(distribution.mode()), distribution.sample_from(noise), value

    def arguments(n):
        obs = sample_block(env.observation_space, 1, n)
        _, distribution, _ = jax.eval_shape(
            network.apply, params, network.initial_rnn_state(n), obs, np.ones((1, n), bool)
        )
        noise = jax.tree.map(np.asarray, distribution.noise(jax.random.key(1)))
        return params, network.initial_rnn_state(n), obs, np.ones((1, n), bool), noise

    (n,) = jax.export.symbolic_shape("n")
    fixed = len(jax.tree.leaves(params))
    leaves, structure = jax.tree.flatten(arguments(7))
    axes = [None] * fixed + [x.shape.index(7) for x in leaves[fixed:]]
    avals = [
        jax.ShapeDtypeStruct(x.shape if axis is None else (*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype)
        for x, axis in zip(leaves, axes, strict=True)
    ]
    return jax.export.export(jax.jit(act))(*structure.unflatten(avals)), act, arguments


# --- modules of the user ----------------------------------------------------------------------------------------------


CONFIG = Config(num_envs=4, num_steps=8, num_epochs=1, num_minibatches=2, total_timesteps=64)


def one_update(env, network):
    """Return metrics of one iteration, and the state after it."""
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
    """A module that returns a value with one axis too many."""

    @nn.compact
    def __call__(self, obs):
        return Categorical(nn.Dense(4)(obs)), nn.Dense(1)(obs)


def four_actions():
    return env_of(box(-1, 1, (3,)), Discrete(4))


@pytest.mark.slow
def test_a_linen_module_of_the_user_trains():
    env = four_actions()
    state, metrics = one_update(env, from_module(Mine(), env))
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_a_value_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"value of Wrong must be \[T, N\]"):
        one_update(four_actions(), from_module(Wrong(), four_actions()))


# --- rollout and update -----------------------------------------------------------------------------------------------


def test_images_are_stored_in_bytes_in_the_rollout():
    env = env_of(OBSERVATIONS["pixels"], Discrete(3))
    algo = make_ppo(env, make_network(env, small(kind="cnn")), Config(num_envs=N, num_steps=4, num_minibatches=1))
    state = jax.eval_shape(algo.init, jax.random.key(0), Hyperparams())
    _, rollout = jax.eval_shape(partial(ppo.collect_rollout, algo.components), state, jax.random.key(1))
    assert rollout.obs.dtype == rollout.final_obs.dtype == jnp.uint8


@pytest.mark.slow
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
    """The stored actions have the density from which they were sampled, also if the environment clips them."""
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


# --- errors -----------------------------------------------------------------------------------------------------------


ASYMMETRIC = {"actor": box(-1, 1, (3,)), "critic": box(-1, 1, (4,))}


@pytest.mark.parametrize(
    ("observation", "actions", "config", "message"),
    [
        (box(-1, 1, (3,)), Discrete(2), {"kind": "cnn"}, "needs an image"),
        (box(0, 1, (2, 9)), Discrete(2), {"kind": "cnn"}, 'kind = "cnn" needs an image'),
        (box(-1, 1, (3,)), Discrete(2), {"kind": "gru", "encoder": "cnn"}, 'encoder = "cnn" needs an image'),
        (ASYMMETRIC, Discrete(2), {"shared_torso": True}, "shared_torso must be false"),
        ({"action_mask": BOOLS[2]}, Discrete(2), {}, "nothing to read"),
        (box(-1, 1, (3,)), {}, {}, "action space is an empty dict"),
        (box(-1, 1, (3,)), box(0, 9, (2,), np.int32), {}, "use MultiDiscrete"),
        (box(-1, 1, (3,)), box(-1, np.inf, (2,)), {"action_distribution": "tanh_gaussian"}, "finite bounds"),
        (box(-1, 1, (3,)), box(1, 1, (2,)), {"action_distribution": "tanh_gaussian"}, "low < high"),
        (box(-1, 1, (3,)), "left or right", {}, "type str"),
    ],
    ids=readable,
)
def test_spaces_that_do_not_fit_the_network_are_refused(observation, actions, config, message):
    with pytest.raises(ValueError, match=message):
        make_network(env_of(observation, actions), NetworkConfig(**config))


def test_a_bad_config_is_refused_with_all_its_problems():
    with pytest.raises(ConfigError, match="2 problems"):
        make_network(four_actions(), NetworkConfig(kind="transformer", hidden_sizes=(0,)))
