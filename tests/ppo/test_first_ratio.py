"""The ratio of the first minibatch is 1 for every network and action space, whatever the order of environments."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import IMAGE, env_of, params_of
from optimizations import changed, distance, same, short_jit
from probes import masked
from slow import slow_except

import purejaxppo as pp
from purejaxppo import Hyperparams, NetworkConfig, ppo
from purejaxppo.distributions import Categorical
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.functional import objectives
from purejaxppo.training.loop import as_traced

SPACE, SEEN_BY_CNN = box(-1, 1, (2,)), {"image": IMAGE, "more": box(-1, 1, (2,))}


WIDE = box(-0.5, 0.5, (2,))  # most actions exceed these bounds


ACTIONS = {
    "discrete": (Discrete(3), {}),
    "masked": (None, {}),
    "multi-discrete": (MultiDiscrete((3, 2)), {}),
    "gaussian": (WIDE, {}),
    "std of the state": (WIDE, {"state_dependent_std": True}),
    "tanh": (WIDE, {"action_distribution": "tanh_gaussian"}),
    "mixed": ({"choice": Discrete(3), "push": WIDE}, {"action_distribution": "tanh_gaussian"}),
}


NORMALIZED, TWO, BF16 = {"normalize_observations": True}, {"num_devices": 2}, {"compute_dtype": "bfloat16"}


MATRIX = [
    ("mlp", "discrete", NORMALIZED | BF16),
    ("mlp", "masked", NORMALIZED),
    ("mlp", "multi-discrete", TWO),
    ("mlp", "gaussian", NORMALIZED | TWO),
    ("mlp", "std of the state", {}),
    ("mlp", "tanh", NORMALIZED | BF16),
    ("mlp", "mixed", {}),
    ("cnn", "discrete", NORMALIZED),
    ("cnn", "mixed", TWO),
    ("gru", "masked", NORMALIZED | BF16),
    ("gru", "tanh", TWO),
    ("lstm", "multi-discrete", NORMALIZED),
    ("lstm", "std of the state", NORMALIZED | TWO | BF16),
    ("lru", "gaussian", NORMALIZED | BF16),
]


FAST = (("mlp", "discrete"), ("gru", "tanh"))


def network_and_env(kind, action, **options):
    space, more = ACTIONS[action]
    env = masked() if space is None else env_of(SEEN_BY_CNN if kind == "cnn" else SPACE, space)
    return pp.make_network(env, NetworkConfig(kind, (5,), rnn_size=4, **more, **options)), env


def test_the_cases_cover_every_action_space_and_network():
    """Every action space occurs with an MLP and with another network; every other choice with two networks or more."""
    networks = {action: {kind for kind, other, _ in MATRIX if other == action} for action in ACTIONS}
    assert all("mlp" in kinds and len(kinds) >= 2 for kinds in networks.values())
    for name in ("normalize_observations", "num_devices"):
        assert all(len({kind for kind, _, more in MATRIX if (name in more) == on}) >= 2 for on in (True, False))
    assert {kind for kind, _, more in MATRIX if "compute_dtype" in more} == {"mlp", "gru", "lstm", "lru"}


def row_of(kind, action, options):
    """Return a row as a parameter; all but a few are slow tests."""
    marks = [] if (kind, action) in FAST else [pytest.mark.slow]
    return pytest.param(kind, action, options, id=f"{kind} {action}", marks=marks)


@pytest.mark.parametrize(("kind", "action", "options"), [row_of(*row) for row in MATRIX])
def test_the_first_ratio_is_one_for_every_network_and_action(kind, action, options):
    """Three updates: from the second on, the observation statistics differ from the initial ones."""
    dtype = {name: x for name, x in options.items() if name in BF16}
    network, env = network_and_env(kind, action, **dtype)
    more = {name: x for name, x in options.items() if name not in BF16}
    memory = {"sequence_length": 4} if kind in ("gru", "lstm", "lru") else {}
    algo = pp.make_ppo(env, network, changed(num_epochs=2, num_minibatches=2, **memory, **{"num_devices": 1, **more}))
    assert algo.components.plan.num_devices == options.get("num_devices", 1)
    h = as_traced(Hyperparams(1e-2))

    @short_jit
    def run(params, key):
        state = algo.init(key, h)._replace(params=params)
        return jax.lax.scan(lambda state, _: algo.update(state, h), state, length=3)[1]

    metrics = run(params_of(network), jax.random.key(0))
    assert metrics.first_ratio_error.max() < 1e-5
    assert metrics.kl.min() > 1e-6  # later ratios differ from 1
    assert metrics.num_episodes.min() > 0


@pytest.mark.parametrize("action", ["multi-discrete", "std of the state"])
def test_a_ratio_is_one_if_the_parameters_are_those_of_the_rollout(action):
    """Probabilities of T steps of N environments, as in a rollout, and of T * N samples, as in a minibatch."""
    network, _ = network_and_env("mlp", action)
    obs = np.random.default_rng(0).uniform(-1, 1, (6, 4, 2)).astype(np.float32)

    @short_jit
    def ratios(params, key):
        _, old, _ = jax.vmap(lambda obs: network.apply(params, (), obs[None], jnp.zeros((1, 4), bool)))(obs)
        actions = old.sample(key)
        rows = jax.tree.map(lambda x: x.reshape(1, 24, *x.shape[3:]), actions)
        _, new, _ = network.apply(params, (), obs.reshape(1, 24, 2), jnp.zeros((1, 24), bool))
        log_prob = old.log_prob(actions)
        return objectives.importance_ratio(new.log_prob(rows), log_prob.reshape(1, 24)), log_prob

    ratio, log_prob = ratios(params_of(network), jax.random.key(1))
    np.testing.assert_allclose(ratio, 1.0, atol=1e-5)
    assert np.std(log_prob) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_except(["mlp", "gru", "lstm", "lru"], "gru"))
def test_the_order_of_the_environments_does_not_matter(kind):
    """A whole update with permuted states and noise: the state is permuted and the parameters are equal."""
    network, env = network_and_env(kind, "discrete")

    def step(key, state, action):
        after, ts = env.step(key, state, action)
        return after, ts._replace(reward=ts.obs[0] + action.astype(jnp.float32))

    rewarding, memory = env._replace(step=step), {"sequence_length": 4} if kind != "mlp" else {}
    config = changed(num_epochs=2, num_minibatches=1, scale_rewards=True, normalize_observations=True, **memory)
    algo = pp.make_ppo(rewarding, network, config)
    components, h, noise = algo.components, as_traced(Hyperparams(1e-2)), Categorical.noise

    def moved(tree, order):
        return jax.tree.map(lambda x: x[order] if x.shape[:1] == (4,) else x, tree)

    def run(params, order):
        state = algo.init(jax.random.key(3), h)._replace(params=params)
        of_envs = ("env_state", "obs", "rnn_state", "is_first", "episodes", "reward_scaler")
        state = state._replace(**{name: moved(getattr(state, name), order) for name in of_envs})
        env_noise = lambda *sizes: jax.tree.map(lambda x: x[:, order], components.env.noise(*sizes))  # noqa: E731
        action_noise = lambda self, key, shape=(): noise(self, key, shape)[:, order]  # noqa: E731
        with mock.patch.object(Categorical, "noise", action_noise):
            return ppo.update(components._replace(env=components.env._replace(noise=env_noise)), state, h)

    params, order = params_of(network), np.array([2, 0, 3, 1])
    program = short_jit(run)
    (state, metrics), (other, other_metrics) = program(params, np.arange(4)), program(params, order)
    assert distance(state.params, other.params) < 1e-5
    assert distance(state.params, params) > 1e-3
    of_envs = ((x.obs, x.rnn_state, x.episodes, x.reward_scaler.returns) for x in (moved(state, order), other))
    assert distance(*of_envs) < 1e-5
    assert same(state.is_first[order], other.is_first)
    np.testing.assert_allclose(metrics.kl, other_metrics.kl, atol=1e-6)
    assert distance(state.obs[order], state.obs) > 0.1
