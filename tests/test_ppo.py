"""The page: the ratio that must be 1, truncation, minibatches, early stop, annealing."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from plain_net import plain
from probes import chain, endless, masked, reward_by_distance, scripted

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.batching.gather import to_device_layout
from purejaxppo.batching.sequences import to_sequences
from purejaxppo.batching.shuffles import feistel_permutation, permutation
from purejaxppo.metrics import REPORT
from purejaxppo.training.loop import as_traced

CHAIN, PUSH, ENDLESS = chain(limit=5), reward_by_distance(action_dim=2), endless(limit=4)
TINY = Config(num_envs=3, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=24 * 4)


@cache
def algorithm(env, config=TINY):
    return pp.make_ppo(env, plain(env), config)


@cache
def compiled(function):
    """One program per function, whichever test asks: compiling is most of what these tests cost."""
    return jax.jit(function)


def one_update(algo, h=None, seed=0, updates=1):
    h = as_traced(h)
    state = compiled(algo.init)(jax.random.key(seed), h)
    step = compiled(algo.update)
    for _ in range(updates):
        before, (state, metrics) = again(state), step(state, h)
    return before, state, metrics


def parts_of(algo):
    return algo.update.args[0]


def again(tree):
    """The same values with keys that count as fresh: a test may look at a thing twice, the library may not."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: jax.random.clone(x) if is_key(x) else x, tree)


# --- the ratio is 1 at the first minibatch ----------------------------------------------------------------------------


PATHS = {
    "as is": {},
    "normalised observations, sorted shuffle": {"normalize_observations": True, "shuffle": "permutation"},
    "scaled rewards, whole batch": {"scale_rewards": True, "num_minibatches": 1},
    "advantages as they are": {"normalize_advantages": False, "targets": "monte_carlo"},
    "KL penalty": {"objective": "kl", "targets": "n_step", "n_step": 3},
    "CPI, resets in the step": {"objective": "cpi", "resets": "every_step"},
    "TRPO": {"policy_step": "trpo", "normalize_observations": True},
    "targets anew each epoch": {"recompute_advantages": True, "targets": "td_lambda"},
    "cuts as ends, pooled resets": {"truncation": "terminal", "resets": "pool"},
    "cuts masked": {"truncation": "mask"},
}


@pytest.mark.parametrize(
    ("kind", "path"),
    [("discrete", path) for path in PATHS]
    + [("continuous", "normalised observations, sorted shuffle"), ("continuous", "TRPO")],
)
def test_ratio_is_one_at_the_first_minibatch(kind, path):
    """Whatever the path, in the third update too; networks and actions of other kinds: test_recurrent.py."""
    env = CHAIN if kind == "discrete" else PUSH
    algo = algorithm(env, Config(**(vars(TINY) | PATHS[path])))
    _, state, metrics = one_update(algo, Hyperparams(0.1), updates=3)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.kl > 1e-5  # and it moves after that
    if algo.config.normalize_observations:
        assert state.obs_moments.count == 3 * 24


def test_masks_go_through_the_page_and_are_not_normalised():
    """A forbidden action ends the episode and costs 10: none is ever taken, and the first ratio is 1."""
    env = masked()
    network = pp.make_network(env, pp.NetworkConfig())
    config = Config(**(vars(TINY) | {"normalize_observations": True}))
    _, _, metrics = one_update(pp.make_ppo(env, network, config), Hyperparams(0.1), updates=3)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.episode_return_min >= 0.0


# --- truncation -------------------------------------------------------------------------------------------------------


def values_of(algo, seed=0):
    state = compiled(algo.init)(jax.random.key(seed), as_traced(None))
    parts = parts_of(algo)
    after, rollout = jax.jit(partial(ppo.collect_rollout, parts))(state, jax.random.key(5))
    values, next_values = jax.jit(partial(ppo.state_values, parts))(state.params, after, rollout)
    return state, after, rollout, values, next_values


def test_eq09_next_values_are_those_of_the_state_before_the_reset():
    """V(s'_t), against the network applied to every final_obs: also where one environment is cut many times."""
    algo = algorithm(scripted(terminate_at=(7,), truncate_at=(2, 5)))
    state, _, rollout, _, next_values = values_of(algo)
    assert rollout.truncated.sum(0).max() >= 3
    _, _, expected = algo.network.apply(state.params, (), rollout.final_obs, rollout.is_first)
    np.testing.assert_allclose(jnp.where(rollout.terminated, 0, next_values - expected), 0.0, atol=1e-6)
    _, _, wrong = algo.network.apply(state.params, (), jnp.roll(rollout.obs, -1, 0), rollout.is_first)
    assert jnp.abs(jnp.where(rollout.truncated, wrong - expected, 0.0)).max() > 1e-2  # the reset state differs


@pytest.mark.parametrize("mode", ["bootstrap", "terminal", "mask"])
def test_truncation_modes_by_hand(mode):
    """At a cut step: δ = r + γ V(s') - V, or r - V, or 0; never a trace across the cut."""
    algo = algorithm(ENDLESS, Config(**(vars(TINY) | {"truncation": mode})))
    _, after, rollout, values, next_values = values_of(algo)
    h = as_traced(Hyperparams(gamma=0.9, gae_lambda=0.7))
    batch = ppo.compute_targets(parts_of(algo), after.params, state=after, rollout=rollout, h=h)
    v, v_next, cut = (np.asarray(x) for x in (values, next_values, rollout.truncated))
    delta = {"bootstrap": 1 + 0.9 * v_next - v, "terminal": 1 - v, "mask": 0 * v}[mode]
    delta = np.where(cut, delta, 1 + 0.9 * v_next - v)
    expected, trace = np.zeros_like(delta), 0
    for t in reversed(range(8)):
        trace = delta[t] + 0.9 * 0.7 * np.where(cut[t], 0, trace)
        expected[t] = trace
    assert cut.sum() == 6
    np.testing.assert_allclose(batch.advantage.reshape(8, 3), expected, atol=1e-5)
    np.testing.assert_allclose(batch.target.reshape(8, 3), expected + v, atol=1e-5)


# --- targets and minibatches ------------------------------------------------------------------------------------------


def test_E7_targets_are_bitwise_the_same_with_normalisation_on_and_off():
    batches = []
    for on in (True, False):
        algo = algorithm(CHAIN, Config(**(vars(TINY) | {"normalize_advantages": on})))
        state, after, rollout, _, _ = values_of(algo)
        batches.append(
            ppo.compute_targets(parts_of(algo), state.params, state=after, rollout=rollout, h=as_traced(None))
        )
    np.testing.assert_array_equal(batches[0].target, batches[1].target)
    assert abs(float(batches[0].advantage.mean())) > 1e-3  # what the batch carries is not normalised


def test_C5_no_gradient_through_targets_and_advantages():
    """The loss is the same function of the parameters whether the batch depends on them or not."""
    algo = algorithm(CHAIN)
    parts, h = parts_of(algo), as_traced(Hyperparams(ent_coef=0.01))
    state, after, rollout, _, _ = values_of(algo)

    def through(params):
        batch = ppo.compute_targets(parts, params, state=after, rollout=rollout, h=h)
        return batch.advantage.sum() + batch.target.sum()

    assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(through)(state.params)))


@pytest.mark.parametrize("shuffle", [permutation, feistel_permutation], ids=["permutation", "hash"])
@pytest.mark.parametrize("size", [2, 15, 24, 31, 4096, 6000, 2**15 * 3])
def test_orders_are_permutations_and_differ_between_keys(shuffle, size):
    a, b = (np.asarray(jax.jit(shuffle, static_argnums=1)(jax.random.key(i), size)) for i in (0, 1))
    np.testing.assert_array_equal(np.sort(a), np.arange(size))
    np.testing.assert_array_equal(np.sort(b), np.arange(size))
    assert size < 20 or (a != b).mean() > 0.9


@pytest.mark.parametrize("shuffle", [permutation, feistel_permutation], ids=["permutation", "hash"])
def test_minibatch_membership_looks_random(shuffle):
    """Four minibatches of 512: two rows meet in one with probability 127/511, neighbours in time or space too."""
    keys = jax.random.split(jax.random.key(7), 4000)
    orders = np.asarray(jax.jit(jax.vmap(lambda k: shuffle(k, 512)))(keys))
    place = np.argsort(orders, axis=1)  # where each row went
    group = place // 128
    for lag in (1, 2, 16, 23, 256):
        meet = (group[:, :-lag] == group[:, lag:]).mean(0)  # per pair, over keys: sd .0068
        assert abs(meet.mean() - 127 / 511) < 0.004
        assert np.abs(meet - 127 / 511).max() < 0.045
    counts = np.stack([(place == p).mean(0) for p in (0, 200, 511)]) * 512  # each row at a given place: mean 1, sd .36
    assert counts.std() < 0.45


def test_each_epoch_visits_every_sample_once_and_all_leaves_alike():
    """Labelled rows: with an objective that sees advantage and ratio of one row, the pairs stay together."""
    seen = []
    spy = lambda key, size: seen.append(size) or permutation(key, size)  # noqa: E731
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY, shuffle=spy)
    parts = parts_of(algo)
    state, after, rollout, _, _ = values_of(algo)
    batch = ppo.compute_targets(parts, state.params, state=after, rollout=rollout, h=as_traced(None))

    def row(batch, i):
        return tuple(np.concatenate([np.ravel(x[0, i]) for x in jax.tree.leaves(batch)]))

    rows = {row(batch, i) for i in range(24)}
    index = parts.shuffle(jax.random.key(1), 24).reshape(2, 12)
    taken = [jax.tree.map(lambda x, i=i: x[:, index[i]], batch) for i in range(2)]
    shuffled = [row(m, j) for m in taken for j in range(12)]
    assert len(shuffled) == 24
    assert set(shuffled) == rows
    assert set(seen) == {24}


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_sequences_are_stretches_of_one_environment(length):
    t, n = jnp.meshgrid(jnp.arange(8), jnp.arange(3), indexing="ij")
    t, n = np.asarray(to_sequences(t, length)), np.asarray(to_sequences(n, length))
    assert t.shape == (length, 24 // length)
    assert (n == n[:1]).all()
    assert (np.diff(t, axis=0) == 1).all()
    assert (t[0] % length == 0).all()
    assert len({*zip(t.ravel().tolist(), n.ravel().tolist(), strict=True)}) == 24


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("devices", [1, 2, 3])
def test_devices_have_runs_of_columns_of_their_own_environments(devices, length):
    """The same columns as on one device, at the places that `located` says, and nobody else's environments."""
    x = jnp.arange(8 * 6 * 2).reshape(8, 6, 2)
    one, several = to_sequences(x, length), to_sequences(x, length, devices)
    order = jax.random.permutation(jax.random.key(0), one.shape[1])
    np.testing.assert_array_equal(several[:, to_device_layout(order, 6, devices)], one[:, order])
    envs = np.asarray(several)[0, :, 0].reshape(devices, -1) // 2 % 6
    for device, share in enumerate(envs):
        assert set(share // (6 // devices)) == {device}


# --- controls ---------------------------------------------------------------------------------------------------------


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
        batch = ppo.compute_targets(parts, state.params, state=after, rollout=rollout, h=h)
        order = parts.shuffle(jax.random.split(epoch_key, 2)[0], 24)
        one = jax.tree.map(lambda x: x[:, order[:12]], batch)
        one = one._replace(advantage=ppo.surrogate_advantage(parts, one.advantage))
        grads = jax.grad(ppo.loss, has_aux=True)(state.params, parts, one, h)[0]
        params, unravel = ravel_pytree(state.params)
        params, opt_state = ppo.descend(h, ravel_pytree(grads)[0], state.opt_state, params)
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


def test_C7_controllers_follow_the_kl_of_the_whole_batch_once_per_update():
    """β, learning rate and clip range of every update from the KL of the one before, by the rules written out."""
    config = Config(**(vars(TINY) | {"objective": "kl", "total_timesteps": 24 * 12}))
    h = Hyperparams(0.1, beta=0.5, beta_target_kl=0.03, lr_target_kl=0.02, clip_target_kl=0.05, lr_anneal=0.5)
    _, m = pp.train(algorithm(CHAIN, config), jax.random.key(0), h)
    kl = np.asarray(m.kl, np.float64)
    beta, rate, clip = 0.5, 1.0, 1.0
    seen = set()
    for i in range(12):
        np.testing.assert_allclose(m.beta[i], beta, rtol=1e-5)
        np.testing.assert_allclose(m.learning_rate[i], 0.1 * rate * (1 - 0.5 * i / 12), rtol=1e-5)
        np.testing.assert_allclose(m.clip_eps[i], 0.2 * clip, rtol=1e-5)
        factor = 2.0 if kl[i] > 1.5 * 0.03 else 0.5 if kl[i] < 0.03 / 1.5 else 1.0
        seen.add(factor)
        beta *= factor
        rate = np.clip(rate * (1 / 1.5 if kl[i] > 2 * 0.02 else 1.5 if kl[i] < 0.02 / 2 else 1.0), 0.01, 10)
        clip = np.clip(clip * (1 / 1.5 if kl[i] > 2 * 0.05 else 1.5 if kl[i] < 0.05 / 2 else 1.0), 0.1, 2)
    assert {2.0, 0.5} <= seen


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


def test_learning_rate_anneals_once_per_update():
    _, state, metrics = one_update(algorithm(CHAIN), Hyperparams(1e-2), updates=3)
    np.testing.assert_allclose(metrics.learning_rate, 1e-2 * (1 - 2 / 4), rtol=1e-6)
    assert state.num_updates == 3
    _, _, metrics = one_update(algorithm(CHAIN), Hyperparams(1e-2, lr_anneal=0.0), updates=3)
    np.testing.assert_allclose(metrics.learning_rate, 1e-2, rtol=1e-6)


def test_clip_is_of_the_global_norm():
    """Where Adam's eps is far above the gradient a step is lr / eps times the clipped gradient, of norm 1e-4."""
    config = Config(**(vars(TINY) | {"num_epochs": 1, "num_minibatches": 1}))
    h = Hyperparams(1.0, max_grad_norm=1e-4, adam_eps=1e-1, adam_b1=0.0, adam_b2=0.0, lr_anneal=0.0)
    before, after, metrics = one_update(algorithm(CHAIN, config), h)
    steps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), before.params, after.params)
    assert metrics.grad_norm > 0.1
    np.testing.assert_allclose(jnp.sqrt(sum(jax.tree.leaves(steps))), 1e-3, rtol=0.01)


def test_unfinished_episodes_are_not_averaged_in():
    _, _, metrics = one_update(algorithm(endless(limit=100)))
    assert metrics.num_episodes == 0
    assert jnp.isnan(metrics.episode_return_mean)
    _, _, metrics = one_update(algorithm(ENDLESS))
    assert (metrics.num_episodes, metrics.episode_return_mean, metrics.episode_length_max) == (6, 4, 4)


def test_observation_statistics_move_after_the_update_only():
    config = Config(**(vars(TINY) | {"normalize_observations": True}))
    algo = algorithm(CHAIN, config)
    before, after, _ = one_update(algo, updates=2)
    assert before.obs_moments.count == 24
    _, rollout = ppo.collect_rollout(parts_of(algo), before, jax.random.split(again(before.key), 3)[1])
    np.testing.assert_allclose(after.obs_moments.count, 48)
    old = before.obs_moments
    merged = (old.mean * 24 + np.asarray(rollout.obs).reshape(24, -1).sum(0)) / 48
    np.testing.assert_allclose(after.obs_moments.mean, merged, atol=1e-6)


# --- what is stored, in which order it is read, and what is drawn -----------------------------------------------------


def test_actions_are_stored_as_drawn_and_clipped_behind_the_log_probability():
    """σ = e^(-0.3) against bounds of ±0.5: many actions lie outside; the reward is that of the clipped action."""
    algo = algorithm(reward_by_distance(target=0.25, action_dim=2, bound=0.5))
    state, after, rollout, _, _ = values_of(algo)
    assert (jnp.abs(rollout.action) > 0.5).mean() > 0.2
    clipped = np.clip(np.asarray(rollout.action), -0.5, 0.5)
    np.testing.assert_allclose(rollout.reward, -((clipped - 0.25) ** 2).sum(-1), rtol=1e-5, atol=1e-6)
    batch = ppo.compute_targets(parts_of(algo), state.params, state=after, rollout=rollout, h=as_traced(None))
    mean, log_std = (np.asarray(x, np.float64) for x in (rollout.distribution.mean, rollout.distribution.log_std))
    normal = -0.5 * ((rollout.action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(batch.log_prob.reshape(8, 3), normal.sum(-1), rtol=1e-4)


def test_every_epoch_is_the_whole_batch_in_an_order_of_its_own():
    """At a learning rate of 0 a minibatch's value loss tells its members: same mean per epoch, other minibatches."""
    algo = algorithm(CHAIN, Config(**(vars(TINY) | {"num_epochs": 3, "num_minibatches": 4})))
    parts, h = parts_of(algo), as_traced(Hyperparams(0.0))
    state, after, rollout, _, _ = values_of(algo)
    batch = ppo.compute_targets(parts, state.params, state=after, rollout=rollout, h=h)
    run = jax.jit(lambda key: ppo.optimize(parts, after, batch, lambda params: batch, h, key)[2])
    steps, taken = run(jax.random.key(3))
    assert taken.shape == (3, 4)
    losses = np.asarray(steps[..., REPORT.index("value_loss")])
    whole = np.mean((np.asarray(batch.value) - np.asarray(batch.target)) ** 2)
    np.testing.assert_allclose(losses.mean(1), whole, rtol=1e-5)
    losses = np.sort(losses, axis=1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(losses[a] - losses[b]).max() > 1e-2 * whole


def test_every_iteration_draws_anew():
    """At a learning rate of 0, in an environment without chance, two iterations differ by the actions drawn alone."""
    algo = algorithm(reward_by_distance())
    h = as_traced(Hyperparams(0.0))
    state = jax.jit(algo.init)(jax.random.key(0), h)
    after, metrics = jax.jit(algo.update)(state, h)
    _, later = jax.jit(algo.update)(again(after), h)
    assert metrics.episode_return_mean != later.episode_return_mean
