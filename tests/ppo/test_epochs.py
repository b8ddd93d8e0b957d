"""The epochs of an update: every sample once per epoch, early stops, clipping of the gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from updates import CHAIN, PUSH, TINY, algorithm, one_update, values_of

from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.metrics import unstack_stats
from purejaxppo.training.loop import as_traced


def test_an_early_stop_after_the_first_step_leaves_only_that_step():
    """If κ is below the KL after the first step, the update equals that step; also per seed under vmap."""
    algo = algorithm(CHAIN)
    once = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 1})))
    h = as_traced(Hyperparams(0.05, target_kl=1e-6))
    components = algo.components

    def first_step_only(key):
        state = algo.init(key, h)
        _, rollout_key, epoch_key = jax.random.split(state.key, 3)
        after, rollout = ppo.collect_rollout(components, state, rollout_key)
        batch = ppo.compute_targets(components, state.params, after, rollout, h)
        order = components.shuffle(jax.random.split(epoch_key, 2)[0], 24)
        one = jax.tree.map(lambda x: x[:, order[:12]], batch)
        one = one._replace(advantage=ppo.surrogate_advantage(components, one.advantage, ()))
        grads = jax.grad(partial(ppo.loss, components, h), has_aux=True)(state.params, one)[0]
        params, unravel = ravel_pytree(state.params)
        step = components.optimizer.step
        params, opt_state = step(h, ravel_pytree(grads)[0], state.opt_state, params, unravel)
        return unravel(params), opt_state

    keys = jax.random.split(jax.random.key(2), 3)
    with jax.debug_key_reuse(False):  # JAX's reuse check counts the keys that a vmapped scan passes on as used
        state, metrics = jax.jit(jax.vmap(lambda k: algo.update(algo.init(k, h), h)))(keys)
        params, opt_state = jax.jit(jax.vmap(first_step_only))(keys)
    np.testing.assert_array_equal(metrics.minibatch_steps, 1.0)
    np.testing.assert_array_equal(state.opt_state[1].count, 1)
    pairs = zip(*map(jax.tree.leaves, ((state.params, state.opt_state), (params, opt_state))), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-6)
    _, _, free = one_update(once, Hyperparams(0.05))
    assert free.minibatch_steps == 2


def test_epochs_after_an_early_stop_change_nothing():
    """Parameters, moments and the count of steps are bitwise the same after two epochs and after three."""
    h = Hyperparams(0.05, target_kl=1e-6)
    three = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 3})))
    (_, a, metrics), (_, b, _) = one_update(algorithm(CHAIN), h), one_update(three, h)
    assert metrics.minibatch_steps == 1
    assert a.opt_state[1].count == 1
    for x, y in zip(*map(jax.tree.leaves, ((a.params, a.opt_state), (b.params, b.opt_state))), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_stopped_seed_does_not_affect_another_seed():
    """κ is per seed: one seed stops at once, and the other equals a run without κ."""
    algo = algorithm(CHAIN)
    settings = as_traced(Hyperparams(0.05, target_kl=jnp.array([1e-6, jnp.inf])))
    settings = Hyperparams(*(jnp.broadcast_to(x, (2,)) for x in settings))
    run = jax.jit(jax.vmap(lambda h: algo.update(algo.init(jax.random.key(0), h), h)))
    state, metrics = run(settings)
    plain_state, _ = run(settings._replace(target_kl=jnp.full(2, jnp.inf)))
    np.testing.assert_array_equal(metrics.minibatch_steps, [1.0, 4.0])
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain_state.params), strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], b[0])


@pytest.mark.parametrize("env", [CHAIN, PUSH], ids=["discrete", "continuous"])
def test_eq06_only_the_trpo_step_moves_the_policy_and_its_kl_is_near_delta(env):
    """With δ near 0 the policy does not change, whatever `ent_coef`: the epochs fit only the values."""
    config = Config(**(vars(TINY) | {"policy_step": "trpo"}))
    _, _, metrics = one_update(algorithm(env, config), Hyperparams(1e-2, trpo_delta=0.01, ent_coef=0.1))
    assert 0.005 < metrics.kl <= 0.0101
    _, _, third = one_update(algorithm(env, config), Hyperparams(1e-2, trpo_delta=0.01), updates=3)
    assert 0.0025 < third.kl <= 0.00505  # δ is annealed like the learning rate: half of it is left
    before, after, metrics = one_update(algorithm(env, config), Hyperparams(1e-2, trpo_delta=1e-12, ent_coef=0.1))
    assert metrics.kl < 1e-7
    assert metrics.minibatch_steps == 4
    for name, x in before.params.items():
        moved = np.abs(np.asarray(after.params[name]) - np.asarray(x)).max()
        assert moved > 1e-3 if name.startswith("critic") else moved < 1e-3, name


def test_gradients_are_clipped_by_their_global_norm():
    """If Adam's eps is far above the gradient, a step is lr / eps times the clipped gradient, whose norm is 1e-4."""
    config = Config(**(vars(TINY) | {"num_epochs": 1, "num_minibatches": 1}))
    h = Hyperparams(1.0, max_grad_norm=1e-4, adam_eps=1e-1, adam_b1=0.0, adam_b2=0.0, lr_anneal=0.0)
    before, after, metrics = one_update(algorithm(CHAIN, config), h)
    steps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), before.params, after.params)
    assert metrics.grad_norm > 0.1
    np.testing.assert_allclose(jnp.sqrt(sum(jax.tree.leaves(steps))), 1e-3, rtol=0.01)


def test_every_epoch_visits_the_whole_batch_in_a_different_order():
    """At learning rate 0 the value loss of a minibatch identifies its samples; its mean over an epoch is constant."""
    algo = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 3, "num_minibatches": 4})))
    components, h = algo.components, as_traced(Hyperparams(0.0))
    state, after, rollout, _, _ = values_of(algo)
    batch = ppo.compute_targets(components, state.params, after, rollout, h)
    run = jax.jit(lambda key: ppo.optimize(components, after, rollout, batch, h, key)[2])
    steps, taken, _ = run(jax.random.key(3))
    assert taken.shape == (3, 4)
    losses = np.asarray(unstack_stats(steps).value_loss)
    whole = np.mean((np.asarray(batch.value) - np.asarray(batch.target)) ** 2)
    np.testing.assert_allclose(losses.mean(1), whole, rtol=1e-5)
    losses = np.sort(losses, axis=1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(losses[a] - losses[b]).max() > 1e-2 * whole
