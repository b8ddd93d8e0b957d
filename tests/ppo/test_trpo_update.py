"""`trpo_update`, the trust-region step (6) of an update."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from optimizations import CHAIN, PUSH, changed, short_jit
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
    """Return a function of h that runs one update and measures the new policy on the rollout of that update.

    The measurements are surrogate, KL and entropy of the old and of the new policy, the change of the parameters, the
    damped Fisher-vector product of that change, and the gradient of the objective. A learning rate of 0 freezes the
    value function.
    """
    algo = pp.make_ppo(env, plain(env), TRPO)
    components = algo.components

    @short_jit
    def run(h):
        state = algo.init(jax.random.key(1), h)
        again = state._replace(key=jax.random.clone(state.key))
        after, rollout = ppo.collect_rollout(components, again, jax.random.split(again.key, 3)[1])
        new = algo.update(state, h)[0].params
        batch = ppo.compute_targets(components, state.params, after, rollout, h)
        centered = batch.advantage - batch.advantage.mean()
        advantage = centered / jnp.std(centered)

        def measure(params):
            ratio, kl, entropy, _ = ppo.evaluate_actions(components, params, batch)
            return {"gain": (ratio * advantage).mean(), "kl": kl.mean(), "entropy": entropy.mean()}

        gradient = jax.grad(lambda p: measure(p)["gain"] + h.ent_coef * measure(p)["entropy"])(state.params)
        move = jax.tree.map(lambda a, b: a - b, new, state.params)
        fisher_product = fisher_vector_product(lambda p: measure(p)["kl"], state.params, move)
        damped = jax.tree.map(lambda f, m: f + h.trpo_damping * m, fisher_product, move)
        return measure(state.params), measure(new), *(ravel_pytree(x)[0] for x in (move, damped, gradient))

    return run


def trpo_step(env, **changes):
    return trpo(env)(as_traced(Hyperparams(0.0, trpo_delta=0.01, lr_anneal=0.0)._replace(**changes)))


BOTH = pytest.mark.parametrize("env", [CHAIN, PUSH], ids=["discrete", "continuous"])


@BOTH
def test_eq06_the_trpo_step_increases_the_surrogate_of_its_batch(env):
    """To first order the surrogate grows by √(2δ gᵀF⁻¹g); a step in the wrong direction would decrease it."""
    before, after, *_ = trpo_step(env)
    assert abs(before["gain"]) < 1e-6
    assert after["gain"] > 0.01
    assert 0.005 < after["kl"] < 0.0101


@BOTH
@pytest.mark.parametrize(
    "changes", [{}, {"trpo_damping": 1e-3}, {"ent_coef": 0.1}], ids=["default", "damping", "entropy"]
)
def test_eq06_the_step_solves_the_damped_system_of_the_fisher_matrix(env, changes):
    """(F + damping) x is a positive multiple of the gradient of surrogate and entropy: conjugate gradients converge."""
    *_, move, damped, gradient = trpo_step(env, **changes)
    scale = (damped @ gradient) / (damped @ damped)
    assert scale > 0
    assert jnp.linalg.norm(scale * damped - gradient) < 0.01 * jnp.linalg.norm(gradient)
    # After a single iteration of conjugate gradients the direction would be the gradient itself.
    assert cosine(move, gradient) < 0.99


@BOTH
def test_the_trpo_step_uses_ent_coef_and_trpo_damping(env):
    """With a large `ent_coef` the entropy grows; with a large damping the direction is the plain gradient."""
    before, plain_step, move, *_ = trpo_step(env)
    _, entropic, *_ = trpo_step(env, ent_coef=10.0)
    assert entropic["entropy"] > before["entropy"] + 0.01
    assert entropic["entropy"] > plain_step["entropy"] + 0.01
    *_, damped_move, _, gradient = trpo_step(env, trpo_damping=1e3)
    assert cosine(damped_move, gradient) > 0.999
    assert cosine(move, gradient) < 0.99
