"""Steps that are not finite are skipped, and statistics stay finite, whatever the environment returns."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optimizations import CHAIN, TINY, changed, short_jit
from plain_net import plain

import purejaxppo as pp
from purejaxppo import Hyperparams, metrics, optimizer, ppo
from purejaxppo._util import trees
from purejaxppo.functional import running_stats
from purejaxppo.training.loop import as_traced

H = as_traced(Hyperparams(0.02))
MAX = float(np.finfo(np.float32).max)


def in_order(key, num_sequences):
    """Use the samples in the order of the rollout: step by step, all environments of a step together."""
    return jnp.arange(num_sequences)


@cache
def played():
    """Return a state after a rollout, the rollout, and its `optimize` as a function of rewards and hyperparameters."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY, shuffle=in_order)
    state = short_jit(algo.init)(jax.random.key(0), H)
    after, rollout = short_jit(lambda s, key: ppo.collect_rollout(algo.components, s, key))(state, jax.random.key(1))
    after = after._replace(key=())

    @short_jit
    def optimize(reward, h):
        data = rollout._replace(reward=reward)
        batch = ppo.compute_targets(algo.components, after.params, after, data, h)
        return ppo.optimize(algo.components, after, data, batch, h, jax.random.key(3))

    return after, rollout, optimize


def is_unchanged(new, old):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


def all_finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, MAX])
def test_minibatches_with_a_bad_reward_are_skipped_and_no_others(bad):
    """A minibatch is skipped exactly if its value loss is not finite; the parameters move by the others."""
    _, rollout, optimize = played()
    params, opt_state, steps = optimize(rollout.reward.at[2, 1].set(bad), H)
    losses = np.asarray(metrics.unstack_stats(steps.stats).value_loss)
    assert not np.isfinite(losses).all()
    np.testing.assert_array_equal(steps.skipped, ~np.isfinite(losses))
    np.testing.assert_array_equal(steps.taken, ~np.asarray(steps.skipped))
    assert steps.taken.any()
    assert all_finite((params, opt_state))
    assert opt_state[1].count == steps.taken.sum()


def test_if_every_minibatch_is_bad_nothing_changes():
    state, rollout, optimize = played()
    params, opt_state, steps = optimize(jnp.full_like(rollout.reward, jnp.nan), H)
    assert steps.skipped.all()
    assert is_unchanged((params, opt_state), (state.params, state.opt_state))


def test_an_update_whose_result_overflows_does_not_count():
    """The losses of the first minibatches are finite; at this learning rate the parameters soon are not."""
    state, rollout, optimize = played()
    params, opt_state, steps = optimize(rollout.reward, H._replace(learning_rate=jnp.float32(jnp.inf)))
    assert np.isfinite(metrics.unstack_stats(steps.stats).policy_loss[0, 0])
    assert steps.skipped.all()
    assert not steps.taken.any()
    assert metrics.skipped_metrics(steps, jnp.float32(0.0), 0)["skip_cause"] == 3.0
    assert is_unchanged((params, opt_state), (state.params, state.opt_state))
    usual, _, healthy = optimize(rollout.reward, H)
    assert not healthy.skipped.any()
    assert not is_unchanged(usual, state.params)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_step_is_finite_if_its_losses_and_its_gradient_are(bad):
    """KL and ratios may be NaN or infinite."""
    stats = metrics.MinibatchStats(*jnp.full(len(metrics.MinibatchStats._fields), 2.0))
    assert metrics.is_finite_step(stats)
    assert metrics.is_finite_step(stats._replace(kl=jnp.float32(bad), max_ratio=jnp.float32(bad)))
    for name in ("policy_loss", "value_loss", "entropy", "grad_norm"):
        assert not metrics.is_finite_step(stats._replace(**{name: jnp.float32(bad)}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_parameters_and_optimizer_state_stay_finite(bad):
    """Whichever number is bad; an infinity from which an optimizer starts may stay, and may become finite."""
    before = (jnp.ones(5), {"mu": jnp.full(5, MAX), "best": jnp.asarray([jnp.inf, 1.0]), "count": jnp.int32(3)})
    params, state = before
    assert trees.stays_finite(before, before)
    assert trees.stays_finite((params, state | {"best": jnp.ones(2)}), before)
    assert not trees.stays_finite((params.at[4].set(bad), state), before)
    assert not trees.stays_finite((params, state | {"mu": state["mu"].at[0].set(bad)}), before)
    assert not trees.stays_finite((params, state | {"best": state["best"].at[1].set(bad)}), before)


def test_only_the_steps_that_were_taken_are_skipped_together():
    """After an early stop nothing is skipped."""
    taken = jnp.asarray([[True, True, False, False]])
    skipped = jnp.asarray([[False, False, True, False]])
    steps = metrics.Steps(jnp.zeros((1, 4, 8)), taken, skipped)
    kept, voided = (metrics.skip_all_unless(jnp.bool_(finite), steps) for finite in (True, False))
    assert is_unchanged(kept, steps)
    assert not voided.taken.any()
    np.testing.assert_array_equal(voided.skipped, [[True, True, True, False]])


def test_an_early_stop_is_not_a_skipped_step():
    _, rollout, optimize = played()
    _, _, steps = optimize(rollout.reward, H._replace(target_kl=jnp.float32(1e-7)))
    assert not steps.taken.all()
    assert not steps.skipped.any()


def one_step(losses, grad_norm=1.0):
    """Return the Steps of one epoch with these policy losses; a step is skipped if its numbers are not finite."""
    rows = jnp.stack([jnp.asarray([loss, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, grad_norm], jnp.float32) for loss in losses])[
        None
    ]
    skipped = ~jnp.isfinite(rows).all(-1)
    return metrics.Steps(rows, ~skipped, skipped)


@pytest.mark.parametrize(
    ("losses", "grad_norm", "before", "expected"),
    [
        ([0.0, 0.0], 1.0, 3.0, (0, 0, 0, 0)),
        ([0.0, np.nan], 1.0, 3.0, (1, 1, 0, 0)),
        ([np.inf, np.nan], 1.0, 0.0, (2, 1, 1, 0)),
        ([0.0, 0.0], np.nan, 1.0, (2, 2, 2, 0)),
        ([np.nan, np.nan], 1.0, 2.0, (2, 1, 3, 1)),
    ],
)
def test_skipped_steps_are_counted_and_their_cause_is_named(losses, grad_norm, before, expected):
    found = metrics.skipped_metrics(one_step(losses, grad_norm), jnp.float32(before), max_skipped=2)
    names = ("skipped_steps", "skip_cause", "skipped_updates", "stalled")
    assert tuple(int(found[name]) for name in names) == expected


def test_a_step_that_is_skipped_although_its_loss_and_gradient_are_finite_has_a_bad_result():
    steps = one_step([0.0, 0.0])
    found = metrics.skipped_metrics(metrics.add_step(steps, jnp.bool_(False)), jnp.float32(0.0), 0)
    assert (found["skipped_steps"], found["skip_cause"], found["stalled"]) == (1.0, 3.0, 0.0)
    assert not metrics.add_step(steps, jnp.bool_(True)).skipped.any()


# Gradients whose squares overflow ------------------------------------------------------------------------------------

GRADIENTS = {
    "usual": [3.0, 4.0],
    "zero": [0.0, 0.0],
    "small": [1e-30, -1e-30],
    "huge": [3e30, 4e30],
    "largest": [MAX, -MAX],
    "mixed": [1e25, 1.0],
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("max_norm", [0.5, 1e20, np.inf])
def test_gradients_are_clipped_right_however_large(name, max_norm):
    """g · min(1, max_norm / ‖g‖) in float64."""
    gradient = {"a": jnp.float32(GRADIENTS[name][0]), "b": jnp.full((1,), GRADIENTS[name][1], jnp.float32)}
    exact = np.array([np.float64(gradient["a"]), np.float64(gradient["b"][0])])
    norm = np.sqrt((exact**2).sum())
    expected = exact * min(1.0, max_norm / norm) if norm > 0 else exact
    clip = optimizer.clip_by_global_norm(max_norm)
    found, _ = clip.update(gradient, clip.init(gradient))
    np.testing.assert_allclose([found["a"], found["b"][0]], expected, rtol=2e-6, atol=1e-37)
    if norm > 1e-15:
        n, unit = optimizer.global_norm(gradient)
        np.testing.assert_allclose(np.float64(n) / np.float64(unit), norm, rtol=1e-6)


def test_usual_gradients_are_clipped_bitwise_as_by_optax():
    gradient = jax.random.normal(jax.random.key(0), (1000,)) * 10.0
    ours, theirs = optimizer.clip_by_global_norm(0.5), optax.clip_by_global_norm(0.5)
    found = jax.jit(lambda g: ours.update(g, ours.init(g))[0])(gradient)
    expected = jax.jit(lambda g: theirs.update(g, theirs.init(g))[0])(gradient)
    np.testing.assert_array_equal(found, expected)


# Whole updates -------------------------------------------------------------------------------------------------------

SPECIAL = [np.nan, np.inf, -np.inf, 1e-8, -1e15, 1e16, 1e20, MAX, -MAX]


@cache
def special_run(scale):
    """Return three updates as a function of the reward of the second step of each episode."""
    config = changed(scale_rewards=scale, normalize_observations=True)
    network = plain(CHAIN)

    def reset(key):
        state, obs = CHAIN.reset(key)
        return (state, jnp.int32(0)), obs

    @short_jit
    def run(value):
        def step(key, state, action):
            inner, age = state
            inner, ts = CHAIN.step(key, inner, action)
            return (inner, age + 1), ts._replace(reward=jnp.where(age == 1, value, ts.reward))

        algo = pp.make_ppo(CHAIN._replace(reset=reset, step=step), network, config)
        state = algo.init(jax.random.key(0), H)
        return jax.lax.scan(lambda s, _: algo.update(s, H), state, length=3)

    return run


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("value", SPECIAL)
def test_parameters_and_statistics_stay_finite_whatever_the_rewards_are(scale, value):
    state, found = special_run(scale)(jnp.float32(value))
    assert all_finite((state.params, state.opt_state, state.obs_moments, state.reward_scaler))
    assert all_finite([x for name, x in found._asdict().items() if name.startswith("episode_")])
    if not np.isfinite(value):
        assert (found.nonfinite_rewards > 0).all()


def test_one_extreme_observation_changes_nothing_in_the_moments():
    rng = np.random.default_rng(0)
    clean = rng.normal(5.0, 2.0, (64, 3)).astype(np.float32)
    expected = running_stats.update_moments(running_stats.init_moments((3,)), jnp.asarray(clean[1:]))
    for bad in (np.nan, np.inf, -np.inf, 1e16, 1e20, MAX):
        batch = clean.copy()
        batch[0, 1] = bad
        moments = running_stats.update_moments(running_stats.init_moments((3,)), jnp.asarray(batch))
        assert moments.count == 63
        np.testing.assert_allclose(moments.mean, np.asarray(expected.mean), rtol=1e-6)
        np.testing.assert_allclose(moments.var, np.asarray(expected.var), rtol=1e-5)


def test_an_iteration_without_a_step_leaves_the_controls_as_they_are():
    """Its KL divergence of 0 would raise an adaptive learning rate."""
    h = H._replace(lr_target_kl=jnp.float32(0.01), beta_target_kl=jnp.float32(0.01), clip_target_kl=jnp.float32(0.01))
    h = h._replace(vf_coef=jnp.float32(jnp.nan))
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY)
    state = short_jit(algo.init)(jax.random.key(0), h)
    after, found = short_jit(algo.update)(state, h)
    assert found.skipped_steps == 12
    assert found.skip_cause == 2.0
    assert found.skipped_updates == after.skipped_updates == 1.0
    assert is_unchanged(after.control, state.control)
    assert is_unchanged(after.params, state.params)


def test_the_count_of_updates_does_not_wrap():
    """At the end of int32 it stays, so that the annealed learning rate remains 0."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY)
    state = short_jit(algo.init)(jax.random.key(0), H)
    update = short_jit(algo.update)
    for _ in range(2):
        state, found = update(state._replace(num_updates=jnp.int32(2**31 - 1)), H)
        assert state.num_updates == 2**31 - 1
        assert found.learning_rate == 0.0
