"""The page, setting by setting: each reaches what it names, and the first ratio is 1 whatever the parts are.

What a setting is worth is checked where it is written (test_objectives.py, test_advantages.py, test_trust_region.py);
here, that the page hands it on. The golden update (test_golden.py) checks most of the values once more.
"""

from functools import cache, partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.flatten_util import ravel_pytree
from nets import IMAGE, env_of, params_of
from plain_net import plain
from probes import chain, masked, quick_jit, reward_by_distance

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, NetworkConfig, ppo
from purejaxppo.batching.shuffles import SHUFFLES
from purejaxppo.distributions import Categorical
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.functional.advantages import TARGETS
from purejaxppo.functional.objectives import OBJECTIVES
from purejaxppo.functional.trpo import fisher_vector_product
from purejaxppo.metrics import REPORT
from purejaxppo.training.loop import as_traced


def compiles_with(options):
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return False
    return True


# Without fusion emitters the thirty programs here compile in half the time; jaxlib 0.11 has no such option.
OPTIONS = quick_jit.keywords["compiler_options"]
OLD_EMITTERS = OPTIONS | {"xla_cpu_use_fusion_emitters": False}
short_jit = partial(jax.jit, compiler_options=OLD_EMITTERS if compiles_with(OLD_EMITTERS) else OPTIONS)

CHAIN, PUSH = chain(limit=5), reward_by_distance(action_dim=2)
TINY = Config(num_envs=4, num_steps=8, num_epochs=3, num_minibatches=4, total_timesteps=32 * 4)
H = as_traced(Hyperparams(0.02))
ORDER = jnp.asarray(np.random.default_rng(0).permutation(32))


def changed(config=TINY, **changes):
    return Config(**(vars(config) | changes))


def parts_of(algo):
    return algo.update.args[0]


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def distance(a, b):
    return max(np.abs(x - y).max() for x, y in zip(leaves(a), leaves(b), strict=True))


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@cache
def played():
    """(state after a rollout, the rollout) that all of the optimisations below start from."""
    algo = pp.make_ppo(CHAIN, plain(CHAIN), TINY)

    @short_jit
    def run(key):
        state = algo.init(key, H)
        after, rollout = ppo.collect_rollout(parts_of(algo), state, state.key)
        return after._replace(key=()), rollout

    return run(jax.random.key(0))


@cache
def optimisation(config=TINY, **handed):
    """All epochs on that rollout: (state, h) -> (params, opt_state, (reports [K, minibatches, 8], steps taken))."""
    parts = parts_of(pp.make_ppo(CHAIN, plain(CHAIN), config, **handed))
    rollout = played()[1]

    def run(state, h):
        batch_of = partial(ppo.compute_targets, parts, state=state, rollout=rollout, h=h)
        return ppo.optimize(parts, state, batch_of(state.params), batch_of, h, jax.random.key(3))

    return run, short_jit(run)


def optimised(config=TINY, h=H, state=None, **handed):
    return optimisation(config, **handed)[1](state or played()[0], h)


# --- early stop -------------------------------------------------------------------------------------------------------

KAPPAS = np.array([1e-7, 1e-3, 3e-3, 1e-2, 0.03, np.inf], np.float32)


def test_the_early_stop_is_at_the_first_minibatch_whose_kl_exceeds_kappa():
    """And none is taken from there on. The KL of a minibatch is that before its step: the first step always is."""
    reports, taken = optimised()[2]
    kl = np.asarray(reports[..., REPORT.index("kl")]).ravel()
    assert taken.all()
    counts = []
    for kappa in KAPPAS:
        _, opt_state, (_, taken) = optimised(h=H._replace(target_kl=kappa))
        first = int(np.argmax(kl > kappa)) if (kl > kappa).any() else len(kl)
        np.testing.assert_array_equal(np.ravel(taken), np.arange(len(kl)) < first)
        assert opt_state[1].count == first
        counts.append(first)
    assert counts[0] == 1
    assert len(set(counts)) >= 5


def test_under_vmap_every_kappa_stops_as_it_does_alone():
    """Parameters, moments and count: bitwise, whatever the κ of the other lanes; up to rounding without vmap."""
    run = optimisation()[0]
    lanes = short_jit(jax.vmap(lambda kappa: run(played()[0], H._replace(target_kl=kappa))))
    with jax.debug_key_reuse(False):  # the checker takes the move of a vmapped scan's keys for a use of them
        mixed = lanes(KAPPAS)
        for i, kappa in enumerate(KAPPAS):
            among, alone = (
                jax.tree.map(lambda x, i=i: x[i], out) for out in (mixed, lanes(np.full_like(KAPPAS, kappa)))
            )
            assert same((*among[:2], among[2][1]), (*alone[:2], alone[2][1])), kappa
            params, _, (_, taken) = optimised(h=H._replace(target_kl=kappa))
            assert same(among[2][1], taken), kappa
            assert distance(among[0], params) < 1e-4, kappa


# --- what is learned: names, hyperparameters, functions handed in -----------------------------------------------------


@cache
def batches():
    """Values, next values and, by the name of the targets, the batch [L, M] of the same rollout."""
    h = as_traced(Hyperparams(gamma=0.9, gae_lambda=0.8, value_lambda=0.6))
    parts = {name: parts_of(pp.make_ppo(CHAIN, plain(CHAIN), changed(targets=name, n_step=3))) for name in TARGETS}
    assert Config().n_step != 3

    @short_jit
    def run(state, rollout):
        values = ppo.state_values(parts["gae"], state.params, state, rollout)
        of = partial(ppo.compute_targets, params=state.params, state=state, rollout=rollout, h=h)
        return values, {name: of(p) for name, p in parts.items()}

    return run(*played())


SLOW = {
    "gae": lambda r, v, n, *ends: v + oracle.gae_double_sum(r, v, n, *ends, gamma=0.9, lam=0.8),
    "monte_carlo": lambda r, v, n, *ends: oracle.monte_carlo(r, n, *ends, gamma=0.9),
    "n_step": lambda r, v, n, *ends: oracle.n_step(r, n, *ends, gamma=0.9, n=3),
    "td_lambda": lambda r, v, n, *ends: oracle.lambda_return(r, n, *ends, gamma=0.9, lam=0.6),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_by_name_reach_the_batch(name):
    """Against the double loops, and unlike those of the other names; the advantages are GAE under each."""
    rollout, (values, found) = played()[1], batches()
    assert min(rollout.terminated.sum(), rollout.truncated.sum()) >= 1
    columns = [np.asarray(x, np.float64) for x in (rollout.reward, *values)]
    columns += [np.asarray(x) for x in (rollout.terminated, rollout.truncated)]
    expected = {key: oracle.per_environment(slow, *columns) for key, slow in SLOW.items()}
    np.testing.assert_allclose(found[name].target.reshape(8, 4), expected[name], atol=1e-5)
    np.testing.assert_allclose(found[name].advantage.reshape(8, 4), expected["gae"] - columns[1], atol=1e-5)
    for other in set(TARGETS) - {name}:
        assert np.abs(expected[name] - expected[other]).max() > 1e-2


def test_recomputed_advantages_are_those_of_the_parameters_after_the_epoch_before():
    """Two epochs are one, and then one that starts from its parameters, moments and what they make of the rollout."""
    order = lambda key, size: ORDER  # noqa: E731
    one, two = changed(num_epochs=1), changed(num_epochs=2)
    params, opt_state, _ = optimised(one, shuffle=order)
    params, opt_state, _ = optimised(one, shuffle=order, state=played()[0]._replace(params=params, opt_state=opt_state))
    anew = optimised(changed(two, recompute_advantages=True), shuffle=order)
    assert distance(anew[:2], (params, opt_state)) < 1e-6
    assert distance(anew[0], optimised(two, shuffle=order)[0]) > 1e-3


def test_the_clipped_value_loss_reaches_the_critic_and_it_alone():
    """Without a clip of the gradient's norm, which would couple the two."""
    free, clipped = (optimised(h=H._replace(max_grad_norm=np.inf, vf_clip_eps=eps))[0] for eps in (np.inf, 0.01))
    for name in free:
        assert (distance(free[name], clipped[name]) > 1e-3) == name.startswith("critic"), name
        assert name.startswith("critic") or same(free[name], clipped[name])


def test_functions_handed_in_are_as_good_as_names_and_take_their_place():
    """Bitwise those that the config names; each alone makes a difference."""
    names = {"objective": "cpi", "targets": "monte_carlo", "shuffle": "permutation"}
    named = optimised(changed(**names))
    handed = {"objective": OBJECTIVES["cpi"], "target_fn": TARGETS["monte_carlo"], "shuffle": SHUFFLES["permutation"]}
    assert same(named, optimised(**handed))
    for function in ({"objective": OBJECTIVES["clip"]}, {"target_fn": TARGETS["gae"]}, {"shuffle": SHUFFLES["hash"]}):
        assert distance(named[0], optimised(changed(**names), **function)[0]) > 1e-3, function


# --- the TRPO step of the page ----------------------------------------------------------------------------------------

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
        batch = ppo.compute_targets(parts, state.params, state=after, rollout=rollout, h=h)
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


# --- the first ratio is 1 ---------------------------------------------------------------------------------------------

SPACE, SEEN_BY_CNN = box(-1, 1, (2,)), {"image": IMAGE, "more": box(-1, 1, (2,))}
WIDE = box(-0.5, 0.5, (2,))  # bounds that most actions are beyond
ACTIONS = {
    "discrete": (Discrete(3), {}),
    "masked": (None, {}),
    "multi-discrete": (MultiDiscrete((3, 2)), {}),
    "gaussian": (WIDE, {}),
    "std of the state": (WIDE, {"state_dependent_std": True}),
    "tanh": (WIDE, {"action_distribution": "tanh_gaussian"}),
    "mixed": ({"choice": Discrete(3), "push": WIDE}, {"action_distribution": "tanh_gaussian"}),
}
NORMALIZED, TWO, BF16 = {"normalize_observations": True}, {"num_devices": 2}, {"compute_dtype": "bfloat16"}
MATRIX = [
    ("mlp", "discrete", NORMALIZED | BF16),
    ("mlp", "masked", NORMALIZED),
    ("mlp", "multi-discrete", TWO),
    ("mlp", "gaussian", NORMALIZED | TWO),
    ("mlp", "std of the state", {}),
    ("mlp", "tanh", NORMALIZED | BF16),
    ("mlp", "mixed", {}),
    ("cnn", "discrete", NORMALIZED),
    ("cnn", "mixed", TWO),
    ("gru", "masked", NORMALIZED | BF16),
    ("gru", "tanh", TWO),
    ("lstm", "multi-discrete", NORMALIZED),
    ("lstm", "std of the state", NORMALIZED | TWO | BF16),
    ("lru", "gaussian", NORMALIZED | BF16),
]


def network_and_env(kind, action, **options):
    space, more = ACTIONS[action]
    env = masked() if space is None else env_of(SEEN_BY_CNN if kind == "cnn" else SPACE, space)
    return pp.make_network(env, NetworkConfig(kind, (5,), rnn_size=4, **more, **options)), env


def test_the_matrix_covers_what_it_should():
    """Every action with an MLP and with another network; every other value with two networks or more."""
    networks = {action: {kind for kind, other, _ in MATRIX if other == action} for action in ACTIONS}
    assert all("mlp" in kinds and len(kinds) >= 2 for kinds in networks.values())
    for name in ("normalize_observations", "num_devices"):
        assert all(len({kind for kind, _, more in MATRIX if (name in more) == on}) >= 2 for on in (True, False))
    assert {kind for kind, _, more in MATRIX if "compute_dtype" in more} == {"mlp", "gru", "lstm", "lru"}


@pytest.mark.parametrize(("kind", "action", "options"), MATRIX, ids=[" ".join(map(str, row[:2])) for row in MATRIX])
def test_the_first_ratio_is_one_of_every_network_and_action(kind, action, options):
    """Three updates: from the second on the statistics of the observations are not those of the start."""
    dtype = {name: x for name, x in options.items() if name in BF16}
    network, env = network_and_env(kind, action, **dtype)
    more = {name: x for name, x in options.items() if name not in BF16}
    memory = {"sequence_length": 4} if kind in ("gru", "lstm", "lru") else {}
    algo = pp.make_ppo(env, network, changed(num_epochs=2, num_minibatches=2, **memory, **{"num_devices": 1, **more}))
    assert algo.num_devices == options.get("num_devices", 1)
    h = as_traced(Hyperparams(1e-2))

    @short_jit
    def run(params, key):
        state = algo.init(key, h)._replace(params=params)
        return jax.lax.scan(lambda state, _: algo.update(state, h), state, length=3)[1]

    metrics = run(params_of(network), jax.random.key(0))
    assert metrics.first_ratio_error.max() < 1e-5
    assert metrics.kl.min() > 1e-6  # and it moves after that
    assert metrics.num_episodes.min() > 0


# --- environments are alike -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "gru", "lstm", "lru"])
def test_the_order_of_the_environments_is_of_no_account(kind):
    """A whole update, states and noise in another order: the state follows and the parameters stay."""
    network, env = network_and_env(kind, "discrete")

    def step(key, state, action):
        after, ts = env.step(key, state, action)
        return after, ts._replace(reward=ts.obs[0] + action.astype(jnp.float32))

    rewarding, memory = env._replace(step=step), {"sequence_length": 4} if kind != "mlp" else {}
    config = changed(num_epochs=2, num_minibatches=1, scale_rewards=True, normalize_observations=True, **memory)
    algo = pp.make_ppo(rewarding, network, config)
    parts, h, noise = parts_of(algo), as_traced(Hyperparams(1e-2)), Categorical.noise

    def moved(tree, order):
        return jax.tree.map(lambda x: x[order] if x.shape[:1] == (4,) else x, tree)

    def run(params, order):
        state = algo.init(jax.random.key(3), h)._replace(params=params)
        of_envs = ("env_state", "obs", "carry", "reset", "episodes", "reward_scaler")
        state = state._replace(**{name: moved(getattr(state, name), order) for name in of_envs})
        env_noise = lambda *sizes: jax.tree.map(lambda x: x[:, order], parts.env.noise(*sizes))  # noqa: E731
        action_noise = lambda self, key, shape=(): noise(self, key, shape)[:, order]  # noqa: E731
        with mock.patch.object(Categorical, "noise", action_noise):
            return ppo.update(parts._replace(env=parts.env._replace(noise=env_noise)), state, h)

    params, order = params_of(network), np.array([2, 0, 3, 1])
    program = short_jit(run)
    (state, metrics), (other, other_metrics) = program(params, np.arange(4)), program(params, order)
    assert distance(state.params, other.params) < 1e-5
    assert distance(state.params, params) > 1e-3
    of_envs = ((x.obs, x.rnn_state, x.episodes, x.reward_scaler.returns) for x in (moved(state, order), other))
    assert distance(*of_envs) < 1e-5
    assert same(state.is_first[order], other.is_first)
    np.testing.assert_allclose(metrics.kl, other_metrics.kl, atol=1e-6)
    assert distance(state.obs[order], state.obs) > 0.1
