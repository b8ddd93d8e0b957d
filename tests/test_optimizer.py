"""Optimizers: the default on one vector, and those of the user on the parameter tree."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiles import count_compiles
from jax.flatten_util import ravel_pytree
from plain_net import plain
from probes import chain, quick_jit

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.optimizer import adam, make_optimizer, tree_optimizer, vector_optimizer
from purejaxppo.training.loop import as_traced

CHAIN = chain(limit=5)
TINY = Config(num_envs=3, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=24 * 4)
PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, 0.2])}
GRADIENT = {"w": jnp.array([[0.3, 0.0], [-0.4, 0.1]]), "b": jnp.array([2.0, -1.0])}


@cache
def updated(make=None, rate=1e-2, **changes):
    """Return (parameters before, parameters after one update with the optimizer `make`)."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), Config(**(vars(TINY) | changes)), optimizer=make)
    h = as_traced(Hyperparams(rate, lr_anneal=0.0, max_grad_norm=jnp.inf))
    state = quick_jit(algo.init)(jax.random.key(0), h)
    return state.params, quick_jit(algo.update)(state, h)[0].params


def stepped(optimizer, h=None):
    """Return the parameters after one step of an Optimizer from PARAMS along GRADIENT."""
    h = as_traced(h)
    vector, unravel = ravel_pytree(PARAMS)
    gradient = ravel_pytree(GRADIENT)[0]
    return unravel(optimizer.step(h, gradient, optimizer.init(h, PARAMS), vector, unravel)[0])


def test_adam_on_the_tree_is_adam_on_the_vector():
    for a, b in zip(*(jax.tree.leaves(updated(make)[1]) for make in (None, adam)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_sgd_moves_against_the_gradient_by_the_traced_rate():
    """θ - α g, with the learning rate of the iteration."""
    optimizer = make_optimizer(lambda h: optax.sgd(h.learning_rate), PARAMS)
    after = stepped(optimizer, Hyperparams(learning_rate=0.25))
    for name, x in PARAMS.items():
        np.testing.assert_allclose(after[name], x - 0.25 * GRADIENT[name], rtol=1e-6)


def test_weight_decay_with_a_mask_changes_the_kernels_only():
    """The difference of adamw with and without decay is -α λ θ where the mask is true, and 0 elsewhere."""
    mask = {"w": True, "b": False}
    decayed, plain_adam = (
        stepped(tree_optimizer(lambda h, x=x: optax.adamw(h.learning_rate, weight_decay=x, mask=mask)))
        for x in (0.1, 0.0)
    )
    rate = Hyperparams().learning_rate
    np.testing.assert_allclose(decayed["w"] - plain_adam["w"], -rate * 0.1 * PARAMS["w"], atol=1e-6)
    np.testing.assert_array_equal(decayed["b"], plain_adam["b"])


def test_frozen_layers_are_unchanged_and_the_others_learn():
    def label(params):
        return {name: "frozen" if name.startswith("critic") else "free" for name in params}

    def make(h):
        return optax.multi_transform({"frozen": optax.set_to_zero(), "free": optax.adam(h.learning_rate)}, label)

    before, after = updated(make)
    for name in before:
        moved = np.abs(np.asarray(after[name]) - np.asarray(before[name])).max()
        assert moved == 0.0 if name.startswith("critic") else moved > 1e-3, name


def test_muon_orthogonalizes_the_step_of_a_matrix():
    """Muon makes the singular values of a step similar: its condition number is below a third of the gradient's."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(8, 8)), jnp.float32)}
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    optimizer = make_optimizer(lambda h: optax.contrib.muon(h.learning_rate, weight_decay=0.0), params)
    h = as_traced(Hyperparams(learning_rate=1.0))
    vector, unravel = ravel_pytree(params)
    after = optimizer.step(h, ravel_pytree(gradient)[0], optimizer.init(h, params), vector, unravel)[0]
    spread = [np.linalg.cond(np.asarray(x["w"])) for x in (gradient, unravel(after - vector))]
    assert spread[0] > 3.0 * spread[1]


@pytest.mark.slow
def test_the_learning_rate_of_another_optimizer_can_be_swept():
    """One program for two rates: SGD at rate 0 changes nothing."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY, optimizer=lambda h: optax.sgd(h.learning_rate))
    rates = as_traced(Hyperparams(learning_rate=jnp.array([0.0, 0.1]), lr_anneal=0.0))
    settings = Hyperparams(*(jnp.broadcast_to(x, (2,)) for x in rates))
    states = quick_jit(jax.vmap(lambda h: algo.init(jax.random.key(0), h)))(settings)
    with jax.debug_key_reuse(False):
        after = quick_jit(jax.vmap(algo.update))(states, settings)[0]
    for a, b in zip(jax.tree.leaves(states.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert not np.array_equal(a[1], b[1])


def changed_state(h):
    def update(gradient, state, params=None):
        return gradient, (state[0], state[0])

    return optax.GradientTransformation(lambda params: (jnp.zeros(()),), update)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda h: h.learning_rate, "optimizer: expected .* optax.GradientTransformation, got "),
        (changed_state, "optimizer: its state must keep structure"),
        (lambda h: optax.stateless(lambda g, p: {"w": g["w"]}), "optimizer: its updates must keep structure"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_before_anything_is_compiled(make, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(make, PARAMS)


@pytest.mark.parametrize(
    ("scale", "accepted"),
    [
        (lambda h: 1.0 / h.target_kl, True),
        (lambda h: h.target_kl / h.target_kl, True),  # inf / inf with the default
        (lambda h: jnp.where(jnp.isinf(h.target_kl), 1.0, jnp.nan), True),
        (lambda h: h.lr_anneal / (h.vf_coef - 0.5), False),
    ],
    ids=["with both", "with a limit", "without a limit", "with neither"],
)
def test_an_optimizer_is_refused_if_it_is_not_finite_with_and_without_the_limits_of_its_user(scale, accepted):
    with count_compiles() as compiles:
        if accepted:
            make_optimizer(lambda h: optax.scale(-scale(h)), PARAMS)
        else:
            with pytest.raises(ValueError, match="optimizer: expected finite parameters"):
                make_optimizer(lambda h: optax.scale(-scale(h)), PARAMS)
    assert compiles["is_sound"] == 1


def test_the_default_works_on_one_vector():
    h = as_traced(None)
    assert [x.shape for x in jax.tree.leaves(vector_optimizer().init(h, PARAMS))] == [(), (6,), (6,)]
