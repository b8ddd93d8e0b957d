"""Recurrent cells: rollout and recomputation agree, resets stop state and gradients, cells compared with NumPy, PPO."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import env_of, params_of, sample_block
from probes import quick_jit, scripted
from recurrent_nets import CONFIG, KINDS, SPACE, assert_close, network_of
from slow import slow_except

from purejaxppo import ppo
from purejaxppo._util.trees import drop_time_axis
from purejaxppo.assembly import make_ppo
from purejaxppo.batching.sequences import to_sequences
from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig
from purejaxppo.distributions import Categorical
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.actor_critic import make_network, mlp
from purejaxppo.networks.protocol import Network
from purejaxppo.networks.recurrent import GRU, LRU, LSTM
from purejaxppo.training.evaluation import evaluate
from purejaxppo.training.loop import as_traced

T, N, D = 6, 3, 2
OBS = sample_block(SPACE, T, N)


@cache
def case(kind):
    """Return (network, params, apply), where apply is compiled once per shape."""
    network = network_of(kind)
    return network, params_of(network), quick_jit(network.apply)


def some_state(network, scale=1.0):
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), network.initial_rnn_state(N))


def flags(*rows):
    return np.array(rows, bool)


RESETS = {
    "never": np.zeros((T, N), bool),
    "always": np.ones((T, N), bool),
    "first": np.arange(T)[:, None] == np.zeros((1, N)),
    "last": np.arange(T)[:, None] == np.full((1, N), T - 1),
    "two in a row": np.isin(np.arange(T), (2, 3))[:, None] & flags([True, False, True]),
    "random": np.random.default_rng(1).random((T, N)) < 0.4,
}


def step_by_step(apply, params, rnn_state, obs, is_first):
    """Return the states before every step and after the last, and the outputs, from one call per step."""
    rnn_states, outputs = [rnn_state], []
    for t in range(len(is_first)):
        rnn_state, *out = apply(params, rnn_state, obs[t : t + 1], jnp.asarray(is_first[t : t + 1]))
        rnn_states.append(rnn_state)
        outputs.append(drop_time_axis(tuple(out)))
    return rnn_states, jax.tree.map(lambda *x: jnp.stack(x), *outputs)


# --- rollout and recomputation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", RESETS)
def test_recomputing_a_block_gives_the_outputs_of_the_rollout(kind, pattern):
    network, params, apply = case(kind)
    rnn_state, is_first = some_state(network), RESETS[pattern]
    rnn_states, outputs = step_by_step(apply, params, rnn_state, OBS, is_first)
    end, *block = apply(params, rnn_state, OBS, jnp.asarray(is_first))
    assert_close(end, rnn_states[-1])
    assert_close(tuple(block), outputs)


@pytest.mark.parametrize("length", [1, 2, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputing_sequences_of_every_length_gives_the_outputs_of_the_rollout(kind, length):
    """Each sequence starts from the recurrent state before its first step, as in the epochs."""
    network, params, apply = case(kind)
    is_first = RESETS["random"]
    rnn_states, outputs = step_by_step(apply, params, some_state(network), OBS, is_first)
    stored = jax.tree.map(lambda *x: jnp.stack(x), *rnn_states[:-1])  # [T, N, ...]
    cut = partial(jax.tree.map, lambda x: to_sequences(jnp.asarray(x), length))
    _, *found = apply(params, drop_time_axis(cut(stored)), cut(OBS), cut(is_first))
    assert_close(tuple(found), cut(outputs))


@pytest.mark.parametrize("kind", KINDS)
def test_is_first_resets_the_recurrent_state(kind):
    """After is_first everything is bitwise as from the initial state, however large the state before."""
    network, params, apply = case(kind)
    is_first = RESETS["two in a row"]
    since = jax.tree.map(lambda x: x[3:, ::2], apply(params, some_state(network), OBS, jnp.asarray(is_first))[1:])
    others = apply(params, some_state(network, 1e4), OBS, jnp.asarray(is_first))[1:]
    assert_close(since, jax.tree.map(lambda x: x[3:, ::2], others), atol=0.0)
    fresh = step_by_step(apply, params, network.initial_rnn_state(N), OBS[3:], np.zeros((T - 3, N), bool))[1]
    assert_close(since, jax.tree.map(lambda x: x[:, ::2], fresh), atol=1e-6)
    fresh = jax.tree.map(lambda x: x[:, 1], fresh)  # environment 1 has no reset and keeps its state
    assert np.abs(others[1][3:, 1] - fresh[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_crosses_a_reset(kind):
    network, params, _ = case(kind)
    is_first = jnp.asarray(np.arange(T)[:, None] == np.array([[3, T, 3]]))  # environment 1 has none

    @quick_jit
    def gradients(rnn_state, obs):
        def late(rnn_state, obs):
            _, distribution, value = network.apply(params, rnn_state, obs, is_first)
            return jnp.sum(value[3:]) + jnp.sum(jnp.sin(distribution.logits[3:]))

        return jax.grad(late, argnums=(0, 1))(rnn_state, obs)

    of_state, of_obs = gradients(some_state(network), OBS)
    assert not of_obs[:3, ::2].any()
    assert all((np.abs(of_obs[t, n]) > 0).any() for t in range(3, T) for n in range(N))
    assert all(np.abs(of_obs[t, 1]).max() > 1e-7 for t in range(3))
    for x in jax.tree.leaves(of_state):
        assert not x[::2].any()
        assert x[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_environments_permutes_outputs(kind):
    network, params, apply = case(kind)
    rnn_state, is_first, order = some_state(network), jnp.asarray(RESETS["random"]), np.array([2, 0, 1])
    straight = apply(params, rnn_state, OBS, is_first)
    rnn_state = jax.tree.map(lambda x: x[order], rnn_state)
    end, *block = apply(params, rnn_state, OBS[:, order], is_first[:, order])
    assert_close(end, jax.tree.map(lambda x: x[order], straight[0]), atol=1e-6)
    assert_close(tuple(block), jax.tree.map(lambda x: x[:, order], straight[1:]), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_actor_and_critic_have_separate_states_unless_they_share_a_torso(kind):
    assert set(network_of(kind).initial_rnn_state(1)) == {"actor", "critic"}
    network = network_of(kind, shared=True)
    assert set(network.initial_rnn_state(1)) == {"shared"}
    layers = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert set(layers) == {"shared_0", f"shared_{kind}", "policy", "value"}


# --- cells against NumPy ---------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_gru(p, rnn_state, x, is_first):
    h, out = rnn_state, []
    for t in range(len(x)):
        h = np.where(is_first[t][:, None], 0.0, h)
        a, b, c = np.split(x[t] @ p["input"]["kernel"] + p["input"]["bias"], 3, -1)
        d, e, f = np.split(h @ p["recurrent"], 3, -1)
        r, z = sigmoid(a + d), sigmoid(b + e)
        n = np.tanh(c + r * (f + p["candidate_bias"]))
        h = (1 - z) * n + z * h
        out.append(h)
    return h, np.stack(out)


def slow_lstm(p, rnn_state, x, is_first):
    (c, h), out = rnn_state, []
    for t in range(len(x)):
        c, h = (np.where(is_first[t][:, None], 0.0, y) for y in (c, h))
        i, f, g, o = np.split(x[t] @ p["input"]["kernel"] + p["input"]["bias"] + h @ p["recurrent"], 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return (c, h), np.stack(out)


def slow_lru(p, rnn_state, x, is_first):
    half = rnn_state.shape[-1] // 2
    h, out = rnn_state[:, :half] + 1j * rnn_state[:, half:], []
    decay = np.exp(-np.exp(p["nu"]) + 1j * p["theta"])
    for t in range(len(x)):
        h = np.where(is_first[t][:, None], 0.0, h)
        u = x[t] @ p["input"]["kernel"]
        h = decay * h + np.sqrt(1 - np.abs(decay) ** 2) * (u[:, :half] + 1j * u[:, half:])
        y = np.concatenate([h.real, h.imag, x[t]], -1) @ p["output"]["kernel"] + p["output"]["bias"]
        out.append(0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))))
    return np.concatenate([h.real, h.imag], -1), np.stack(out)


def network_like(module, *example):
    """A Network with the fields that `params_of` reads."""
    return Network(lambda key: module.init(key, *example), module.apply)


@pytest.mark.parametrize(("cell", "slow"), [(GRU, slow_gru), (LSTM, slow_lstm), (LRU, slow_lru)])
def test_cells_are_their_formulas_step_by_step(cell, slow):
    module, length = cell(4), 33
    x = sample_block(SPACE, length, N, seed=2)
    is_first = np.random.default_rng(3).random((length, N)) < 0.1
    rnn_state = some_state(module)
    params = params_of(network_like(module, rnn_state, x, jnp.asarray(is_first)))
    found = quick_jit(module.apply)(params, rnn_state, x, jnp.asarray(is_first))
    as_float64 = partial(jax.tree.map, np.float64)
    expected = slow(as_float64(params["params"]), as_float64(rnn_state), np.float64(x), is_first)
    assert_close(found, expected)


def test_initial_cells_are_orthogonal_and_remember(key):
    """Recurrent kernels are orthogonal gate by gate, LSTM's forget bias is 1, |λ| of the LRU lies in its ring."""
    keys, x, is_first = jax.random.split(key, 3), jnp.ones((1, 1, 4)), jnp.ones((1, 1), bool)
    cells = {"gru": GRU(6), "lstm": LSTM(6), "lru": LRU(6)}

    @quick_jit
    def init(keys):
        return {
            k: c.init(keys[i], c.initial_rnn_state(1), x, is_first)["params"] for i, (k, c) in enumerate(cells.items())
        }

    params = jax.tree.map(np.float64, init(keys))
    for kind, gates in (("gru", 3), ("lstm", 4)):
        for kernel in np.split(params[kind]["recurrent"], gates, axis=1):
            np.testing.assert_allclose(kernel.T @ kernel, np.eye(6), atol=1e-5)
        for kernel in np.split(params[kind]["input"]["kernel"], gates, axis=1):
            np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)
    np.testing.assert_array_equal(params["lstm"]["input"]["bias"], np.repeat([0, 1, 0, 0], 6))
    radius = np.exp(-np.exp(params["lru"]["nu"]))
    assert (radius >= LRU.min_radius).all()
    assert (radius <= LRU.max_radius).all()
    assert (params["lru"]["theta"] >= 0).all()
    assert (params["lru"]["theta"] <= LRU.max_phase).all()


def test_lru_is_stable_at_every_radius():
    """|λ| ≤ 1 and a finite gain at every radius from 0 to 1, so that a long block cannot diverge."""
    module, length = LRU(4), 200
    rnn_state, x, is_first = module.initial_rnn_state(1), jnp.ones((length, 1, D)), jnp.zeros((length, 1), bool)
    params = params_of(network_like(module, rnn_state, x, is_first))["params"] | {
        "nu": jnp.asarray([-80.0, -20.0, 0.0, 5.0])
    }

    def size(params):
        return jnp.sum(module.apply({"params": params}, rnn_state, x, is_first)[0] ** 2)

    value, grads = quick_jit(jax.value_and_grad(size))(params)
    assert value < 1e6
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


# --- PPO -------------------------------------------------------------------------------------------------------------


def run_update(env, network, config, params):
    """Return (state, metrics) after one iteration from these parameters."""
    algo = make_ppo(env, network, config)

    @quick_jit
    def run(params, key):
        return algo.update(algo.init(key, Hyperparams())._replace(params=params), Hyperparams(learning_rate=1e-2))

    return run(params, jax.random.key(0))


@cache
def recurrent_update(kind, burn_in=0):
    """Return (state, metrics) after one iteration; a fifth of the steps end an episode, so sequences have resets."""
    network = network_of(kind)
    config = Config(**(CONFIG.__dict__ | {"burn_in": burn_in}))
    return run_update(env_of(SPACE, Discrete(3)), network, config, params_of(network))


@pytest.mark.parametrize("kind", slow_except(KINDS, "gru"))
def test_first_ratio_is_one_in_a_recurrent_update(kind):
    state, metrics = recurrent_update(kind)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.num_episodes > 0
    assert metrics.kl > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_except(["gru", "lru"], "gru"))
def test_permuting_environments_permutes_targets_and_keeps_the_gradient(kind):
    """One rollout with permuted environments: the sequences are permuted, and the gradient of the batch is equal."""
    network, order = network_of(kind), np.array([2, 0, 3, 1])
    algo = make_ppo(env_of(SPACE, Discrete(3)), network, CONFIG)
    components, h, params = algo.components, as_traced(None), params_of(network)

    def batch_and_gradient(state, rollout):
        batch = ppo.compute_targets(components, params, state, rollout, h)
        return batch, jax.grad(partial(ppo.loss, components, h), has_aux=True)(params, batch)[0]

    @quick_jit
    def both(key):
        state = algo.init(key, h)._replace(params=params)
        state, rollout = ppo.collect_rollout(components, state, state.key)
        moved = {
            name: jax.tree.map(lambda x: x[order], getattr(state, name)) for name in ("obs", "rnn_state", "is_first")
        }
        other = jax.tree.map(lambda x: x[:, order], rollout)
        return batch_and_gradient(state, rollout), batch_and_gradient(state._replace(**moved), other)

    (batch, gradient), (other, other_gradient) = both(jax.random.key(0))
    chunks = CONFIG.num_steps // CONFIG.sequence_length
    columns = np.concatenate([order + c * CONFIG.num_envs for c in range(chunks)])
    assert_close(other, jax.tree.map(lambda x: x[:, columns], batch))
    assert_close(other_gradient, gradient)
    assert any(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_except(KINDS, "gru"))
def test_an_update_with_a_burn_in_starts_from_ratio_one(kind):
    (_, metrics), (_, without) = recurrent_update(kind, burn_in=2), recurrent_update(kind)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 1e-6
    assert metrics.kl != without.kl  # later minibatches start from other states


def with_idle_state(network):
    """Return the same network with a recurrent state that it writes and never reads."""

    def apply(params, rnn_state, obs, is_first):
        _, distribution, value = network.apply(params, (), obs, is_first)
        return rnn_state + obs.sum((0, 2))[:, None], distribution, value

    return Network(network.init, apply, lambda num_envs: jnp.zeros((num_envs, 1)))


@pytest.mark.parametrize(("length", "minibatches"), slow_except([(1, 4), (8, 1)], (8, 1)))
def test_a_recurrent_state_that_is_ignored_changes_nothing(length, minibatches):
    """With equal minibatches (single steps, or everything in one) the update equals the feed-forward one to 1e-5."""
    env = scripted(terminate_at=(5,), truncate_at=(3,))
    network, config = mlp(env, (8,)), Config(**(CONFIG.__dict__ | {"num_minibatches": minibatches}))
    params = params_of(network)
    state, metrics = run_update(env, network, config, params)
    config = Config(**(config.__dict__ | {"sequence_length": length}))
    other, other_metrics = run_update(env, with_idle_state(network), config, params)
    assert_close(state.params, other.params)
    assert_close(state.params, params, atol=0.5)
    np.testing.assert_allclose(metrics.grad_norm, other_metrics.grad_norm, rtol=1e-4)
    assert metrics.kl > 1e-6


@pytest.mark.parametrize("kind", slow_except(["gru", "lru"], "gru"))
def test_truncated_states_are_valued_by_the_recurrent_state_of_their_episode(kind):
    """V(s'_t) is that of a network that reads the whole episode from the initial state, up to s'_t before the reset."""
    env = scripted(terminate_at=(4,), truncate_at=(3,))  # action 3 terminates, 4 truncates, the clock at 3 too
    network = make_network(env, NetworkConfig(kind, (5,), rnn_size=4))
    algo = make_ppo(env, network, CONFIG)

    @quick_jit
    def run(params, key):
        state = algo.init(key, Hyperparams())._replace(params=params)
        state, rollout = ppo.collect_rollout(algo.components, state, state.key)
        return rollout, ppo.state_values(algo.components, params, state, rollout)

    params = params_of(network)
    rollout, (values, next_values) = run(params, jax.random.key(2))
    apply = quick_jit(network.apply)
    done = np.asarray(rollout.terminated | rollout.truncated)
    cuts = 0
    for n in range(CONFIG.num_envs):
        start = 0
        for t in range(CONFIG.num_steps):
            episode = np.concatenate([rollout.obs[start : t + 1, n], rollout.final_obs[t, n][None]])
            episode = np.concatenate([episode, np.zeros((CONFIG.num_steps + 1 - len(episode), 2), np.float32)])[:, None]
            fresh = apply(
                params, network.initial_rnn_state(1), jnp.asarray(episode), jnp.zeros((len(episode), 1), bool)
            )[2]
            np.testing.assert_allclose(values[t, n], fresh[t - start, 0], atol=1e-5)
            if not rollout.terminated[t, n]:
                np.testing.assert_allclose(next_values[t, n], fresh[t - start + 1, 0], atol=1e-5)
            cuts += int(rollout.truncated[t, n])
            start = t + 1 if done[t, n] else start
    assert cuts >= 4


# A network whose recurrent state counts steps, so that its value is known.


def counting(env):
    """Return a network whose action is nearly surely the number of steps so far, modulo the number of actions."""

    def apply(params, rnn_state, obs, is_first):
        def step(count, is_first):
            count = jnp.where(is_first, 0, count)
            return count + 1, count

        rnn_state, counts = jax.lax.scan(step, rnn_state, is_first)
        logits = 50.0 * jax.nn.one_hot(counts % env.action_space.n, env.action_space.n, dtype=jnp.float32)
        return rnn_state, Categorical(logits * params), counts.astype(jnp.float32) * params

    return Network(lambda key: jnp.float32(1.0), apply, lambda num_envs: jnp.full(num_envs, 77, jnp.int32))


@pytest.mark.parametrize(("terminate_at", "truncate_at"), [((3,), (5,)), ((5,), (3,))], ids=["terminated", "truncated"])
def test_the_stored_state_precedes_the_step_and_is_first_marks_first_steps(terminate_at, truncate_at):
    env = scripted(terminate_at, truncate_at, random_start=False)
    algo = make_ppo(env, counting(env), CONFIG)
    state = algo.init(jax.random.key(0), Hyperparams())
    _, rollout = quick_jit(partial(ppo.collect_rollout, algo.components))(state, jax.random.key(1))
    done = np.asarray(rollout.terminated | rollout.truncated)
    assert done.any()
    expected_is_first = np.concatenate([np.ones((1, 4), bool), done[:-1]])
    np.testing.assert_array_equal(rollout.is_first, expected_is_first)
    rnn_state, count = np.zeros((8, 4), int), np.full(4, 77)
    for t in range(8):
        rnn_state[t] = count
        count = np.where(expected_is_first[t], 0, count) + 1
    np.testing.assert_array_equal(rollout.rnn_state, rnn_state)
    counts = np.asarray(rollout.obs[..., 1]).astype(int)  # the environment counts, too
    np.testing.assert_array_equal(rollout.action, counts % 5)


def test_evaluation_carries_the_recurrent_state_and_starts_it_at_zero():
    """The reward is 1 if the action is the time modulo 3, which only a recurrent state can count."""

    def reset(key):
        return jnp.int32(0), jnp.zeros((1,), jnp.float32)

    def step(key, time, action):
        obs = jnp.zeros((1,), jnp.float32)
        reward = (action == time % 3).astype(jnp.float32)
        return time + 1, TimeStep(obs, reward, time == 9, jnp.bool_(False), obs)

    env = Env(reset, step, box(-1, 1, (1,)), Discrete(3))
    algo = make_ppo(env, counting(env), CONFIG)
    state = algo.init(jax.random.key(0), Hyperparams())
    result = evaluate(algo, state, jax.random.key(1), num_episodes=3, greedy=True, max_steps=20)
    np.testing.assert_array_equal(result.returns, np.full(3, 10.0, np.float32))
