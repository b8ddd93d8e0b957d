"""Policy heads: masks, actions of any shape, bounds of actions and deviations."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from nets import (
    BOOLS,
    N,
    T,
    env_of,
    params_of,
    sample_block,
    uniforms,
)
from probes import quick_jit
from scipy import stats

from purejaxppo.assembly import make_ppo
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig
from purejaxppo.distributions import DiagonalGaussian
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, box, share_within
from purejaxppo.networks.actor_critic import mlp
from purejaxppo.networks.policy_heads import LOG_STD_MAX, LOG_STD_MIN, Shaped, bound_log_std, check_action_space
from purejaxppo.training.loop import as_traced

# --- log σ ------------------------------------------------------------------------------------------------------------


def test_log_std_is_unchanged_in_its_range_and_bounded_beyond():
    inside = jnp.linspace(LOG_STD_MIN, LOG_STD_MAX, 101, dtype=jnp.float32)
    np.testing.assert_array_equal(bound_log_std(inside), inside)
    np.testing.assert_array_equal(jax.vmap(jax.grad(bound_log_std))(inside), np.ones(101, np.float32))
    outside = jnp.asarray([LOG_STD_MIN - 1e30, LOG_STD_MIN - 1, LOG_STD_MAX + 1, LOG_STD_MAX + 1e30], jnp.float32)
    excess = np.tanh(1.0)
    expected = [LOG_STD_MIN - 1, LOG_STD_MIN - excess, LOG_STD_MAX + excess, LOG_STD_MAX + 1]
    np.testing.assert_allclose(bound_log_std(outside), expected, rtol=1e-6)
    slopes = jax.vmap(jax.grad(bound_log_std))(outside)
    np.testing.assert_allclose(slopes, [0, 1 - excess**2, 1 - excess**2, 0], atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_entropy_alone_cannot_make_the_deviation_overflow_and_it_can_return(sign):
    """The reward ignores an action dimension: Adam raises (or lowers) its entropy for 2000 steps, then reverses."""
    network = mlp(env_of(box(-1, 1, (3,)), box(-1, 1, (2,))), ())
    params, obs = params_of(network), sample_block(box(-1, 1, (3,)), 1, 4)
    optimizer = optax.adam(0.05)

    def entropy(params):
        return network.apply(params, (), obs, None)[1].entropy().mean()

    def step(carry, weight):
        params, opt_state = carry
        grads = jax.grad(lambda p: weight * entropy(p))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), entropy(params)

    @quick_jit
    def run(params):
        weights = jnp.repeat(jnp.asarray([-sign, sign], jnp.float32), 2000)  # of the loss
        return jax.lax.scan(step, (params, optimizer.init(params)), weights)

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        entropies = run(params)[1]
    log_stds = np.asarray(entropies) / 2 - 0.5 - 0.5 * np.log(2 * np.pi)  # of two equal dimensions
    assert np.isfinite(entropies).all()
    assert LOG_STD_MIN - 1 <= log_stds.min() <= log_stds.max() <= LOG_STD_MAX + 1
    assert sign * log_stds[1999] > 10  # at the bound, not below it
    assert sign * log_stds[-1] < 0  # and it returns


@pytest.mark.slow
def test_training_from_the_upper_bound_with_a_large_entropy_bonus_stays_finite():
    env = env_of(box(-1, 1, (3,)), box(-1, 1, (2,)))  # the reward is the same for every action
    with pytest.warns(UserWarning, match="log_std_init"):
        network = mlp(env, (), log_std_init=LOG_STD_MAX)
    algo = make_ppo(env, network, Config(4, 8, 2, 2, total_timesteps=10**6))
    h = as_traced(Hyperparams(ent_coef=1.0, learning_rate=0.1, lr_anneal=0.0))

    @quick_jit
    def run(key):
        return jax.lax.scan(lambda state, _: algo.update(state, h), algo.init(key, h), length=40)

    state, metrics = run(jax.random.key(0))
    assert state.params["params"]["log_std"].min() > LOG_STD_MAX + 2  # the parameter itself keeps rising, slowly
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    assert np.isfinite(metrics.entropy).all()
    np.testing.assert_allclose(metrics.entropy[-1] / 2 - 0.5 - 0.5 * np.log(2 * np.pi), LOG_STD_MAX + 1, atol=0.05)


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


# --- masks ------------------------------------------------------------------------------------------------------------


# name: action space, mask space, and the masks of the categorical components as one array [..., Σ n]
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
    """Return (network, params, obs of a mask [T, N, 5], mask); the last mask allows one action per component."""
    actions, mask_space, shape = MASKS[name]
    network = mlp(env_of({"x": box(-1, 1, (3,)), "action_mask": mask_space}, actions), (8,))
    rng = np.random.default_rng(seed)
    mask = rng.random((T, N, 5)) < 0.5
    mask[..., 0] = mask[..., 4] = True
    mask[-1] = [True, False, False, False, True] if name not in ("discrete", "numbers") else [False] * 4 + [True]
    x = uniforms(rng, T, N, 3)
    return network, params_of(network), lambda m: {"x": x, "action_mask": jax.tree.map(jnp.asarray, shape(m))}, mask


def probabilities(distribution):
    """Return π of all categorical components, concatenated [T, N, 5]."""
    parts = jax.tree.leaves(getattr(distribution, "parts", distribution), is_leaf=lambda x: hasattr(x, "logits"))
    logits = [x for part in parts if hasattr(part, "logits") for x in jax.tree.leaves(part.logits)]
    return np.concatenate([jax.nn.softmax(x) for x in logits], axis=-1)


@pytest.mark.parametrize("name", MASKS)
def test_masked_actions_have_probability_zero_and_leave_the_rest_as_it_was(name):
    network, params, obs_of, mask = masked_case(name)
    _, distribution, value = network.apply(params, (), obs_of(mask), None)
    _, free, free_value = network.apply(params, (), obs_of(np.ones_like(mask)), None)
    np.testing.assert_array_equal(probabilities(distribution)[~mask], 0.0)
    np.testing.assert_array_equal(value, free_value)  # the mask is not a feature
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
    """Only there the policy is NaN, so that no forbidden action is played silently."""
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


# --- shapes and bounds of actions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_actions_of_any_shape_have_the_density_of_their_components(shape):
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
    mean, log_std = (np.float64(x) for x in joint.components["a"])
    z = (np.float64(action["a"]).reshape(mean.shape) - mean) / np.exp(log_std)
    density = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
    log_probs = np.float64(jax.nn.log_softmax(joint.components["b"].logits))
    density += np.take_along_axis(log_probs, np.asarray(action["b"])[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_prob, density, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(distribution.mode()["a"]).reshape(mean.shape), np.float32(mean))


def test_actions_of_a_tanh_policy_are_within_bounds():
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


def test_boxes_get_a_gaussian_policy():
    network = mlp(env_of(box(-1, 1, (3,)), box(-np.inf, np.inf, (2,))), log_std_init=0.7)
    _, distribution, _ = network.apply(params_of(network), (), jnp.zeros((T, N, 3)), None)
    assert isinstance(distribution, DiagonalGaussian)


def test_bounds_out_of_reach_of_the_policy_are_refused():
    """A Gaussian around 0 in a Box of [1000, 1001] would play 1000 forever; with a wide deviation it would not."""
    far = box(1000.0, 1001.0, (1,))
    with pytest.raises(ValueError, match="rescale_action"):
        check_action_space(far, NetworkConfig())
    check_action_space(box(1000.0, 2000.0, (1,)), NetworkConfig(log_std_init=6.5))
    check_action_space(far, NetworkConfig(action_distribution="tanh_gaussian"))
    check_action_space(box(-2.0, 2.0, (1,)), NetworkConfig())


@pytest.mark.parametrize(
    ("low", "high", "log_std", "warns"),
    [
        (-0.01, 0.01, 0.0, True),
        (-0.02, 0.02, 0.0, False),  # 0.04 / sqrt(2 pi) = 1.6 % of the actions
        (-0.01, 0.01, -1.0, False),
        (3.0, 3.5, 0.0, True),
        (2.0, 2.5, 0.0, False),
        ([0.0, -1.0], [0.0, 1.0], 0.0, False),  # the first component has one value
    ],
)
def test_bounds_that_clip_almost_every_first_action_draw_a_warning(low, high, log_std, warns):
    space = box(np.array(low, np.float32), np.array(high, np.float32), np.shape(low) or (1,))
    expected = pytest.warns(UserWarning, match="rescale_action") if warns else contextlib.nullcontext()
    with expected:
        check_action_space(space, NetworkConfig(log_std_init=log_std))


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.5])
def test_the_share_within_bounds_is_that_of_the_normal_distribution(deviation):
    low, high = np.array([-0.5, 1.0, -np.inf]), np.array([0.25, 3.0, np.inf])
    cdf = stats.norm(0.0, deviation).cdf
    expected = (cdf(high) - cdf(low)).min()
    space = box(low.astype(np.float32), high.astype(np.float32), (3,))
    assert share_within(space, deviation) == pytest.approx(expected, abs=1e-9)
