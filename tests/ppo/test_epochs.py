"""The epochs of an update: every sample once, early stops, clipping of the gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from updates import CHAIN, PUSH, TINY, algorithm, one_update, parts_of, values_of

from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.metrics import unstack_stats
from purejaxppo.training.loop import as_traced


def test_early_stop_leaves_the_first_step_and_nothing_else():
    """With κ below the KL after the first step, the update is that first step alone, also per seed under vmap."""
    algo = algorithm(CHAIN)
    once = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 1})))
    h = as_traced(Hyperparams(0.05, target_kl=1e-6))
    parts = parts_of(algo)

    def first_step_only(key):
        state = algo.init(key, h)
        _, rollout_key, epoch_key = jax.random.split(state.key, 3)
        after, rollout = ppo.collect_rollout(parts, state, rollout_key)
        batch = ppo.compute_targets(parts, state.params, after, rollout, h)
        order = parts.shuffle(jax.random.split(epoch_key, 2)[0], 24)
        one = jax.tree.map(lambda x: x[:, order[:12]], batch)
        one = one._replace(advantage=ppo.surrogate_advantage(parts, one.advantage, ()))
        grads = jax.grad(partial(ppo.loss, parts, h), has_aux=True)(state.params, one)[0]
        params, unravel = ravel_pytree(state.params)
        step = parts.optimizer.step
        params, opt_state = step(h, ravel_pytree(grads)[0], state.opt_state, params, unravel)
        return unravel(params), opt_state

    keys = jax.random.split(jax.random.key(2), 3)
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        state, metrics = jax.jit(jax.vmap(lambda k: algo.update(algo.init(k, h), h)))(keys)
        params, opt_state = jax.jit(jax.vmap(first_step_only))(keys)
    np.testing.assert_array_equal(metrics.minibatch_steps, 1.0)
    np.testing.assert_array_equal(state.opt_state[1].count, 1)
    pairs = zip(*map(jax.tree.leaves, ((state.params, state.opt_state), (params, opt_state))), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-6)
    _, _, free = one_update(once, Hyperparams(0.05))
    assert free.minibatch_steps == 2


def test_after_an_early_stop_two_epochs_or_three_are_bitwise_the_same():
    """Whatever would still have come: parameters, moments and count stay exactly as they are."""
    h = Hyperparams(0.05, target_kl=1e-6)
    three = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 3})))
    (_, a, metrics), (_, b, _) = one_update(algorithm(CHAIN), h), one_update(three, h)
    assert metrics.minibatch_steps == 1
    assert a.opt_state[1].count == 1
    for x, y in zip(*map(jax.tree.leaves, ((a.params, a.opt_state), (b.params, b.opt_state))), strict=True):
        np.testing.assert_array_equal(x, y)


def test_stopped_and_free_seeds_side_by_side():
    """κ is per seed: one seed stops at once, the other does exactly what it does without any κ."""
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
def test_eq06_the_trpo_step_of_the_page_spends_its_delta_and_the_epochs_none(env):
    """KL near δ after the update; with δ next to nothing the policy stays where it was, whatever the entropy weight."""
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


def test_clip_is_of_the_global_norm():
    """Where Adam's eps is far above the gradient a step is lr / eps times the clipped gradient, of norm 1e-4."""
    config = Config(**(vars(TINY) | {"num_epochs": 1, "num_minibatches": 1}))
    h = Hyperparams(1.0, max_grad_norm=1e-4, adam_eps=1e-1, adam_b1=0.0, adam_b2=0.0, lr_anneal=0.0)
    before, after, metrics = one_update(algorithm(CHAIN, config), h)
    steps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), before.params, after.params)
    assert metrics.grad_norm > 0.1
    np.testing.assert_allclose(jnp.sqrt(sum(jax.tree.leaves(steps))), 1e-3, rtol=0.01)


def test_every_epoch_is_the_whole_batch_in_an_order_of_its_own():
    """At a learning rate of 0 a minibatch's value loss tells its members: same mean per epoch, other minibatches."""
    algo = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 3, "num_minibatches": 4})))
    parts, h = parts_of(algo), as_traced(Hyperparams(0.0))
    state, after, rollout, _, _ = values_of(algo)
    batch = ppo.compute_targets(parts, state.params, after, rollout, h)
    run = jax.jit(lambda key: ppo.optimize(parts, after, rollout, batch, h, key)[2])
    steps, taken = run(jax.random.key(3))
    assert taken.shape == (3, 4)
    losses = np.asarray(unstack_stats(steps).value_loss)
    whole = np.mean((np.asarray(batch.value) - np.asarray(batch.target)) ** 2)
    np.testing.assert_allclose(losses.mean(1), whole, rtol=1e-5)
    losses = np.sort(losses, axis=1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(losses[a] - losses[b]).max() > 1e-2 * whole
