"""The trust-region step of the page."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from optimizations import CHAIN, PUSH, changed, parts_of, short_jit
from plain_net import plain

import purejaxppo as pp
from purejaxppo import Hyperparams, ppo
from purejaxppo.functional.trpo import fisher_vector_product
from purejaxppo.training.loop import as_traced


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


TRPO = changed(num_minibatches=1, num_epochs=1, policy_step="trpo")


@cache
def trpo(env):
    """h -> what an update did to the policy, seen from its own rollout; the learning rate of the values is 0."""
    algo = pp.make_ppo(env, plain(env), TRPO)
    parts = parts_of(algo)

    @short_jit
    def run(h):
        state = algo.init(jax.random.key(1), h)
        again = state._replace(key=jax.random.clone(state.key))
        after, rollout = ppo.collect_rollout(parts, again, jax.random.split(again.key, 3)[1])
        new = algo.update(state, h)[0].params
        batch = ppo.compute_targets(parts, state.params, after, rollout, h)
        centred = batch.advantage - batch.advantage.mean()
        advantage = centred / jnp.std(centred)

        def seen(params):
            ratio, kl, entropy, _ = ppo.evaluate_actions(parts, params, batch)
            return {"gain": (ratio * advantage).mean(), "kl": kl.mean(), "entropy": entropy.mean()}

        gradient = jax.grad(lambda p: seen(p)["gain"] + h.ent_coef * seen(p)["entropy"])(state.params)
        move = jax.tree.map(lambda a, b: a - b, new, state.params)
        curved = fisher_vector_product(lambda p: seen(p)["kl"], state.params, move)
        damped = jax.tree.map(lambda f, m: f + h.trpo_damping * m, curved, move)
        return seen(state.params), seen(new), *(ravel_pytree(x)[0] for x in (move, damped, gradient))

    return run


def trpo_step(env, **changes):
    return trpo(env)(as_traced(Hyperparams(0.0, trpo_delta=0.01, lr_anneal=0.0)._replace(**changes)))


BOTH = pytest.mark.parametrize("env", [CHAIN, PUSH], ids=["discrete", "continuous"])


@BOTH
def test_eq06_the_trpo_step_of_the_page_gains_on_its_batch(env):
    """The first-order gain √(2δ gᵀF⁻¹g) is to be seen in the surrogate, of which a wrong sign would make a loss."""
    before, after, *_ = trpo_step(env)
    assert abs(before["gain"]) < 1e-6
    assert after["gain"] > 0.01
    assert 0.005 < after["kl"] < 0.0101


@BOTH
@pytest.mark.parametrize(
    "changes", [{}, {"trpo_damping": 1e-3}, {"ent_coef": 0.1}], ids=["as is", "damping", "entropy"]
)
def test_eq06_the_step_solves_the_damped_system_of_the_fisher_matrix(env, changes):
    """(F + damping) x is the gradient of surrogate and entropy up to the length of x: conjugate gradients converged."""
    *_, move, damped, gradient = trpo_step(env, **changes)
    scale = (damped @ gradient) / (damped @ damped)
    assert scale > 0
    assert jnp.linalg.norm(scale * damped - gradient) < 0.01 * jnp.linalg.norm(gradient)
    # One iteration is the gradient itself, which is another direction.
    assert cosine(move, gradient) < 0.99


@BOTH
def test_the_entropy_weight_and_the_damping_reach_the_trpo_step(env):
    """A large weight is a step towards more entropy; a large damping is the plain gradient."""
    before, plain_step, move, *_ = trpo_step(env)
    _, wide, *_ = trpo_step(env, ent_coef=10.0)
    assert wide["entropy"] > before["entropy"] + 0.01
    assert wide["entropy"] > plain_step["entropy"] + 0.01
    *_, damped_move, _, gradient = trpo_step(env, trpo_damping=1e3)
    assert cosine(damped_move, gradient) > 0.999
    assert cosine(move, gradient) < 0.99
