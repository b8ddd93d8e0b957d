"""A burn-in starts sequences from the recurrent state that the current parameters give, without a gradient."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import env_of, params_of
from probes import quick_jit
from recurrent_nets import CONFIG, KINDS, SPACE, assert_close, network_of
from slow import slow_except

from purejaxppo import ppo
from purejaxppo._util.trees import drop_time_axis
from purejaxppo.assembly import make_ppo
from purejaxppo.batching.burn_in import burn_in_steps, start_rnn_state
from purejaxppo.batching.sequences import to_sequences
from purejaxppo.config.schema import Config
from purejaxppo.envs.spaces import Discrete
from purejaxppo.training.loop import as_traced


def labels(num_steps, num_envs):
    """Return a rollout [T, N] whose values are 100 times the environment plus the time."""
    x = 100 * np.arange(num_envs)[None] + np.arange(num_steps)[:, None]
    return SimpleNamespace(rnn_state=x[..., None], obs={"x": x}, is_first=x % 3 == 0)


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize(("length", "steps"), [(2, 1), (2, 2), (4, 3)])
def test_the_steps_before_a_sequence_are_those_of_its_environment_just_before(length, steps, num_devices):
    whole = labels(8, 4)
    cut = {name: jax.tree.map(lambda x: to_sequences(x, length, num_devices), x) for name, x in vars(whole).items()}
    found = burn_in_steps(SimpleNamespace(**cut), 4, steps, num_devices)
    assert found.rnn_state.shape == (1, 8 * 4 // length, 1)
    for column, begin in enumerate(np.asarray(cut["obs"]["x"])[0]):
        env, time = divmod(int(begin), 100)
        assert found.available[0, column] == (time > 0)
        if time:
            before = whole.obs["x"][time - steps : time, env]
            np.testing.assert_array_equal(found.obs["x"][:, column], before)
            np.testing.assert_array_equal(found.is_first[:, column], before % 3 == 0)
            assert found.rnn_state[0, column, 0] == before[0]


def test_without_a_burn_in_a_sequence_starts_from_the_stored_state():
    assert burn_in_steps(labels(4, 2), 2, 0) == ()
    stored = {"actor": jnp.arange(6.0).reshape(1, 2, 3)}
    start = start_rnn_state(lambda *_: pytest.fail("the network is not called"), {}, stored, ())
    np.testing.assert_array_equal(start["actor"], stored["actor"][0])


def burnt_in(kind, burn_in, params=None):
    """Return (starting states, batch, rollout) of a rollout's sequences; `params`, if given, run the burn-in."""
    config = Config(**(CONFIG.__dict__ | {"burn_in": burn_in}))
    network = network_of(kind)
    algo, of_rollout = make_ppo(env_of(SPACE, Discrete(3)), network, config), params_of(network)
    components, h = algo.components, as_traced(None)

    @quick_jit
    def run(of_rollout, params, key):
        state = algo.init(key, h)._replace(params=of_rollout)
        after, rollout = ppo.collect_rollout(components, state, state.key)
        batch = ppo.compute_targets(components, of_rollout, after, rollout, h)
        return start_rnn_state(network.apply, params, batch.rnn_state, batch.burn_in), batch, rollout

    return run(of_rollout, of_rollout if params is None else params, jax.random.key(4))


@pytest.mark.parametrize("burn_in", slow_except([1, 3, 4], 3))
@pytest.mark.parametrize("kind", slow_except(KINDS, "lru"))
def test_a_burn_in_with_unchanged_parameters_gives_the_stored_state(kind, burn_in):
    """Also if an episode begins within the burn-in: episodes end after five steps on average."""
    start, batch, rollout = burnt_in(kind, burn_in)
    assert batch.burn_in.is_first.shape == (burn_in, 8)
    assert batch.burn_in.is_first[:, 4:].any()
    assert_close(start, drop_time_axis(batch.rnn_state))
    np.testing.assert_array_equal(batch.burn_in.available[0], [False] * 4 + [True] * 4)
    np.testing.assert_array_equal(batch.burn_in.obs[:, 4:], rollout.obs[4 - burn_in : 4])


@pytest.mark.parametrize("kind", slow_except(KINDS, "gru"))
def test_a_burn_in_with_new_parameters_starts_from_the_state_before_it(kind):
    """Later sequences start from a burn-in of three steps with the new parameters, first ones from the stored state."""
    network = network_of(kind)
    new = params_of(network, seed=1)
    start, batch, rollout = burnt_in(kind, 3, new)
    before = jax.tree.map(lambda x: x[1], rollout.rnn_state)
    expected = quick_jit(network.apply)(new, before, rollout.obs[1:4], rollout.is_first[1:4])[0]
    for x, stored, fresh in zip(*map(jax.tree.leaves, (start, batch.rnn_state, expected)), strict=True):
        np.testing.assert_array_equal(x[:4], stored[0, :4])
        np.testing.assert_allclose(x[4:], fresh, atol=1e-5)
        assert np.abs(x[4:] - stored[0, 4:]).max() > 1e-2


def test_a_burn_in_has_no_gradient():
    network = network_of("gru")
    params = params_of(network)
    _, batch, _ = burnt_in("gru", 3)

    def size(params):
        rnn_state = start_rnn_state(network.apply, params, batch.rnn_state, batch.burn_in)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(rnn_state))

    value, gradient = quick_jit(jax.value_and_grad(size))(params)
    assert value > 0.1
    assert not any(np.abs(g).any() for g in jax.tree.leaves(gradient))
