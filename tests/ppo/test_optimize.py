"""`optimize`: early stop, targets, hyperparameters, and functions handed in."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from optimizations import CHAIN, TINY, changed, distance, same, short_jit
from plain_net import plain

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.batching.shuffles import SHUFFLES
from purejaxppo.functional.bindings import OBJECTIVES, TARGETS
from purejaxppo.metrics import unstack_stats
from purejaxppo.training.loop import as_traced

H = as_traced(Hyperparams(0.02))


ORDER = jnp.asarray(np.random.default_rng(0).permutation(32))


@cache
def played():
    """Return the state after a rollout, and the rollout, from which all optimizations below start."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY)

    @short_jit
    def run(key):
        state = algo.init(key, H)
        after, rollout = ppo.collect_rollout(algo.components, state, state.key)
        return after._replace(key=()), rollout

    return run(jax.random.key(0))


@cache
def optimization(config=TINY, **handed):
    """Return all epochs on that rollout: (state, h) -> (params, opt_state, (statistics [K, minibatches], taken))."""
    components = pp.make_ppo(CHAIN, plain(CHAIN), config, **handed).components
    rollout = played()[1]

    def run(state, h):
        batch = ppo.compute_targets(components, state.params, state, rollout, h)
        return ppo.optimize(components, state, rollout, batch, h, jax.random.key(3))

    return run, short_jit(run)


def optimised(config=TINY, h=H, state=None, **handed):
    return optimization(config, **handed)[1](state or played()[0], h)


KAPPAS = np.array([1e-7, 1e-3, 3e-3, 1e-2, 0.03, np.inf], np.float32)


def test_the_early_stop_begins_at_the_first_minibatch_whose_kl_exceeds_kappa():
    """No step is taken from there on. The KL of a minibatch precedes its step, so the first step is always taken."""
    stats, taken, _ = optimised()[2]
    kl = np.asarray(unstack_stats(stats).kl).ravel()
    assert taken.all()
    counts = []
    for kappa in KAPPAS:
        _, opt_state, (_, taken, _) = optimised(h=H._replace(target_kl=kappa))
        first = int(np.argmax(kl > kappa)) if (kl > kappa).any() else len(kl)
        np.testing.assert_array_equal(np.ravel(taken), np.arange(len(kl)) < first)
        assert opt_state[1].count == first
        counts.append(first)
    assert counts[0] == 1
    assert len(set(counts)) >= 5


@pytest.mark.slow
def test_under_vmap_every_kappa_stops_as_in_a_separate_run():
    """Bitwise, whatever the κ of the other lanes; up to rounding compared with a run without vmap."""
    run = optimization()[0]
    lanes = short_jit(jax.vmap(lambda kappa: run(played()[0], H._replace(target_kl=kappa))))
    with jax.debug_key_reuse(False):  # JAX's reuse check counts the keys that a vmapped scan passes on as used
        mixed = lanes(KAPPAS)
        for i, kappa in enumerate(KAPPAS):
            among, alone = (
                jax.tree.map(lambda x, i=i: x[i], out) for out in (mixed, lanes(np.full_like(KAPPAS, kappa)))
            )
            assert same((*among[:2], among[2][1]), (*alone[:2], alone[2][1])), kappa
            params, _, (_, taken, _) = optimised(h=H._replace(target_kl=kappa))
            assert same(among[2][1], taken), kappa
            assert distance(among[0], params) < 1e-4, kappa


@cache
def batches():
    """Return values, next values and, by name of the targets, the batch [L, M] of the same rollout."""
    h = as_traced(Hyperparams(gamma=0.9, gae_lambda=0.8, value_lambda=0.6))
    components = {
        name: pp.make_ppo(CHAIN, plain(CHAIN), changed(targets=name, n_step=3)).components for name in TARGETS
    }
    assert Config().n_step != 3

    @short_jit
    def run(state, rollout):
        values = ppo.state_values(components["gae"], state.params, state, rollout)
        found = {name: ppo.compute_targets(p, state.params, state, rollout, h) for name, p in components.items()}
        return values, found

    return run(*played())


SLOW = {
    "gae": lambda r, v, n, *ends: v + oracle.gae_double_sum(r, v, n, *ends, gamma=0.9, lam=0.8),
    "monte_carlo": lambda r, v, n, *ends: oracle.monte_carlo(r, n, *ends, gamma=0.9),
    "n_step": lambda r, v, n, *ends: oracle.n_step(r, n, *ends, gamma=0.9, n=3),
    "td_lambda": lambda r, v, n, *ends: oracle.lambda_return(r, n, *ends, gamma=0.9, lam=0.6),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_batch_has_the_targets_that_the_config_names(name):
    """Compared with double loops; the targets of different names differ, and the advantages are always GAE."""
    rollout, (values, found) = played()[1], batches()
    assert min(rollout.terminated.sum(), rollout.truncated.sum()) >= 1
    columns = [np.asarray(x, np.float64) for x in (rollout.reward, *values)]
    columns += [np.asarray(x) for x in (rollout.terminated, rollout.truncated)]
    expected = {key: oracle.per_environment(slow, *columns) for key, slow in SLOW.items()}
    np.testing.assert_allclose(found[name].target.reshape(8, 4), expected[name], atol=1e-5)
    np.testing.assert_allclose(found[name].advantage.reshape(8, 4), expected["gae"] - columns[1], atol=1e-5)
    for other in set(TARGETS) - {name}:
        assert np.abs(expected[name] - expected[other]).max() > 1e-2


def test_recomputed_advantages_use_the_parameters_after_the_previous_epoch():
    """Two epochs equal one epoch, followed by one that starts from its parameters, moments and values."""
    order = lambda key, size: ORDER  # noqa: E731
    one, two = changed(num_epochs=1), changed(num_epochs=2)
    params, opt_state, _ = optimised(one, shuffle=order)
    params, opt_state, _ = optimised(one, shuffle=order, state=played()[0]._replace(params=params, opt_state=opt_state))
    anew = optimised(changed(two, recompute_advantages=True), shuffle=order)
    assert distance(anew[:2], (params, opt_state)) < 1e-6
    assert distance(anew[0], optimised(two, shuffle=order)[0]) > 1e-3


def test_recomputed_targets_also_recompute_the_center_of_the_value_clip():
    """V_old is the value from which the targets of the epoch were computed: two epochs equal two separate ones."""
    order = lambda key, size: ORDER  # noqa: E731
    one, two = changed(num_epochs=1), changed(num_epochs=2, recompute_advantages=True)
    h = H._replace(vf_clip_eps=0.02)
    params, opt_state, _ = optimised(one, shuffle=order, h=h)
    between = played()[0]._replace(params=params, opt_state=opt_state)
    params, opt_state, _ = optimised(one, shuffle=order, h=h, state=between)
    assert distance(optimised(two, shuffle=order, h=h)[:2], (params, opt_state)) < 1e-6
    assert distance(optimised(two, shuffle=order)[0], params) > 1e-3


def test_the_clipped_value_loss_changes_the_critic_only():
    """The gradient norm is not clipped, because that would couple actor and critic."""
    free, clipped = (optimised(h=H._replace(max_grad_norm=np.inf, vf_clip_eps=eps))[0] for eps in (np.inf, 0.01))
    for name in free:
        assert (distance(free[name], clipped[name]) > 1e-3) == name.startswith("critic"), name
        assert name.startswith("critic") or same(free[name], clipped[name])


def test_a_function_handed_in_replaces_the_one_that_the_config_names():
    """The results are bitwise those of the named function, and each function makes a difference."""
    names = {"objective": "cpi", "targets": "monte_carlo", "shuffle": "permutation"}
    named = optimised(changed(**names))
    handed = {"objective": OBJECTIVES["cpi"], "target_fn": TARGETS["monte_carlo"], "shuffle": SHUFFLES["permutation"]}
    assert same(named, optimised(**handed))
    for function in ({"objective": OBJECTIVES["clip"]}, {"target_fn": TARGETS["gae"]}, {"shuffle": SHUFFLES["hash"]}):
        assert distance(named[0], optimised(changed(**names), **function)[0]) > 1e-3, function
