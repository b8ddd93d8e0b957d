"""docs/recipes.md is true: its blocks run at toy size, and each does what its section says."""

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiles import count_compiles

import purejaxppo as pp
from purejaxppo.distributions import Categorical
from purejaxppo.envs import Discrete, Env, TimeStep, box
from purejaxppo.functional.advantages import gae
from purejaxppo.networks.protocol import Network
from purejaxppo.training.loop import as_traced

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
HEAD, *REST = re.split(r"^## (.*)\n", PAGE, flags=re.M)
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, re.S) for title, text in zip(REST[::2], REST[1::2], strict=True)
}
START = re.search(r"```python\n(.*?)```", HEAD, re.S)[1]
SIZE = "num_envs=16, total_timesteps=200_000"
TOY = "num_envs=4, num_steps=8, num_epochs=1, num_minibatches=2, total_timesteps=96"
EXAMPLES = sorted((ROOT / "docs" / "recipes").glob("*.py"))
H = as_traced(pp.Hyperparams(2.5e-3, ent_coef=0.01))


@pytest.fixture(autouse=True)
def examples_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "recipes")


def cook(title, names=None):
    """Execute the blocks of a section after the first block of the page; return the names that they define.

    They run under the strict modes of the tests: dtype promotion, rank promotion, key reuse.
    """
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    assert jax.config.jax_numpy_rank_promotion == "raise"
    assert jax.config.jax_debug_key_reuse
    names = dict(names or {})
    if not names:
        assert SIZE in START
        exec(START.replace(SIZE, TOY), names)
    for block in SECTIONS[title]:
        exec(block, names)
    return names


def first_update(algo, h=H, key=0):
    state = jax.jit(algo.init)(jax.random.key(key), h)
    return state, *jax.jit(algo.update)(state, h)


def assert_moves_all_parameters(algo):
    """Run one update: the ratio of its first minibatch is 1, and all parameters move."""
    before, after, metrics = first_update(algo)
    assert metrics.first_ratio_error < 1e-5
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert all(jax.tree.leaves(moved)), moved
    return before, after, metrics


def step_of(optimizer, gradient, params):
    """Return the change of the parameters after one step."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        transformation = optimizer(H)
        return transformation.update(gradient, transformation.init(params), params)[0]


# The page ------------------------------------------------------------------------------------------------------------


def test_every_recipe_has_a_link_and_every_link_a_recipe():
    linked = set(re.findall(r"\]\(#([\w-]+)\)", HEAD))
    assert linked == {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}


def test_targets_of_links_exist():
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE)
    assert [path for path in targets if not (ROOT / "docs" / path).exists()] == []


@pytest.mark.parametrize("title", SECTIONS)
def test_every_recipe_has_a_test(title):
    """Its title is a literal of this file."""
    assert f'cook("{title}"' in Path(__file__).read_text()
    assert SECTIONS[title]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_have_at_most_60_lines(path):
    assert len(path.read_text().splitlines()) <= 60


# Environments --------------------------------------------------------------------------------------------------------


def test_a_gymnax_class_gives_its_reward_and_its_clock():
    """The reward is cos θ of the next state; observation 2 is θ."""
    env = cook("Own gymnax class")["algo"].env
    state, _ = env.reset(jax.random.key(0))
    _, timestep = jax.jit(env.step)(jax.random.key(1), state, jnp.int32(1))
    np.testing.assert_allclose(timestep.reward, np.cos(timestep.obs[2]), rtol=1e-6)
    late = state.replace(time=jnp.full_like(state.time, 499)) if hasattr(state, "replace") else state
    _, timestep = jax.jit(env.step)(jax.random.key(1), late, jnp.int32(1))
    assert timestep.truncated
    assert not timestep.terminated


def test_a_time_limit_truncates_and_does_not_terminate():
    """With alternating actions the pole does not fall within 50 steps."""
    env = cook("Time limit")["short"]

    def step(state, t):
        state, timestep = env.step(jax.random.key(1), state, t % 2)
        return state, (timestep.terminated, timestep.truncated)

    state, _ = env.reset(jax.random.key(0))
    with jax.debug_key_reuse(False):
        _, (terminated, truncated) = jax.jit(partial(jax.lax.scan, step))(state, jnp.arange(50))
    assert np.flatnonzero(truncated).tolist() == [49]
    assert not terminated[:20].any()


def test_every_episode_has_its_own_pole():
    """The length is drawn within its range, stays within the episode, and changes what an action does."""
    env = cook("Domain randomization")["randomized"]
    keys = jax.random.split(jax.random.key(0), 8)
    states, _ = jax.vmap(env.reset)(keys)
    lengths = np.asarray(states[0])
    assert len(np.unique(lengths)) == 8
    assert lengths.min() >= 0.25
    assert lengths.max() <= 1.0
    one = jax.tree.map(lambda x: x[0], states)[1]
    step = jax.vmap(lambda length: env.step(jax.random.key(1), (length, one), jnp.int32(1)))
    (after, _), timestep = step(states[0])
    np.testing.assert_array_equal(after, lengths)
    speeds = np.abs(timestep.obs[:, 3])  # a push tips a short pole faster
    assert (np.argsort(speeds) == np.argsort(-lengths)).all()


@pytest.mark.slow
def test_every_environment_has_its_own_gravity():
    """It is within its range after the loop, and the pole falls faster where it is larger."""
    names = cook("One domain per environment", cook("Domain randomization"))
    gravity = np.asarray(names["state"].env_params["gravity"])
    assert gravity.shape == (4,)
    assert len(np.unique(gravity)) == 4
    assert gravity.min() >= 5.0
    assert gravity.max() <= 15.0
    assert names["state"].num_updates == 2
    tilted = names["planets"].reset(jax.random.key(0))[0].replace(theta=jnp.float32(0.15), theta_dot=jnp.float32(0.0))

    def fall(gravity):
        return names["planet"]({"gravity": gravity}).step(jax.random.key(1), tilted, jnp.int32(1))[1].obs[3]

    speeds = jax.vmap(fall)(jnp.asarray(gravity))
    assert (np.argsort(speeds) == np.argsort(gravity)).all()


# Networks ------------------------------------------------------------------------------------------------------------


def test_the_network_of_pgx_is_the_convolution_and_the_pooling_that_it_stands_for():
    """The window (2, 2) of pgx's pooling covers pairs of columns and pairs of filters."""
    assert_moves_all_parameters(cook("flax linen network")["algo"])
    from minatar import Model

    obs = jax.random.bernoulli(jax.random.key(0), 0.3, (2, 3, 10, 10, 4))
    layers = Model(3).init(jax.random.key(1), obs)["params"]
    layers["Dense_0"]["bias"] += 0.1
    _, found = Model(3).apply({"params": layers}, obs, capture_intermediates=True)

    kernel, bias = (np.float64(layers["Dense_0"][name]) for name in ("kernel", "bias"))
    matrix, offset = (np.float64(layers["Dense_1"][name]) for name in ("kernel", "bias"))
    grid = np.zeros((2, 3, 11, 11, 4))
    grid[..., :10, :10, :] = obs  # padded at the end, as for a window of even size
    x = np.zeros((2, 3, 10, 10, 32))
    for i, j in np.ndindex(2, 2):
        x += np.einsum("tnhwc,cf->tnhwf", grid[..., i : i + 10, j : j + 10, :], kernel.reshape(2, 2, 4, 32)[i, j])
    x = np.maximum(x + bias, 0.0)
    pooled = (x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]) / 4
    expected = pooled.reshape(2, 3, 800) @ matrix + offset
    np.testing.assert_allclose(found["intermediates"]["Dense_1"]["__call__"][0], expected, atol=1e-5)


def test_an_nnx_network_gets_a_gradient_in_every_parameter():
    assert_moves_all_parameters(cook("flax nnx network")["algo"])


@pytest.mark.skipif(importlib.util.find_spec("equinox") is None, reason="needs equinox")
def test_an_equinox_network_gets_a_gradient_in_every_parameter():
    assert_moves_all_parameters(cook("equinox network")["algo"])


def test_an_embedding_of_a_dict_observation_gets_the_gradient_of_the_values_seen():
    """CartPole starts near the center, which is quarter 1 or 2; the vectors of the other quarters stay."""
    env = cook("Dict observations with an embedding")["algo"]
    state, after, metrics = first_update(env)
    assert metrics.first_ratio_error < 1e-5
    assert set(np.unique(state.obs["quarter"])) <= {1, 2}
    (before,), (now,) = (
        [x for path, x in jax.tree.leaves_with_path(s.params) if "embedding" in jax.tree_util.keystr(path)]
        for s in (state, after)
    )
    changed = (before != now).any(1)
    assert changed[1] | changed[2]
    assert not changed[0]
    assert not changed[3]


# Algorithms ----------------------------------------------------------------------------------------------------------


def test_one_step_advantages_are_those_of_gae_with_lambda_0():
    one_step = cook("Own advantage")["one_step"]
    rewards, values, next_values = jax.random.normal(jax.random.key(0), (3, 5, 2))
    terminated, truncated = jax.random.bernoulli(jax.random.key(1), 0.3, (2, 5, 2))
    found, targets = one_step(rewards, values, next_values, terminated, truncated, H, 5)
    expected = gae(rewards, values, next_values, terminated, truncated & ~terminated, H.gamma, jnp.float32(0.0))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(targets, expected + values, atol=1e-6)


def test_the_drift_of_dpo_is_that_of_its_formula_and_vanishes_at_ratio_1():
    """Against the formula in NumPy. At ratio 1 the gradient is the advantage, as of the unclipped surrogate."""
    dpo = cook("Own objective: DPO")["dpo"]
    ratio, advantage = (x.ravel() for x in np.meshgrid(np.geomspace(0.2, 5.0, 21), [-2.0, -0.5, 0.5, 2.0]))
    gain, loss = (ratio - 1) * advantage, np.log(ratio) * advantage
    rising, falling = gain - 2 * np.tanh(gain / 2), loss - 0.6 * np.tanh(loss / 0.6)
    drift = np.maximum(np.where(advantage >= 0, rising, falling), 0)
    found = dpo(jnp.float32(ratio), jnp.float32(advantage), None, H)
    np.testing.assert_allclose(found, ratio * advantage - drift, atol=1e-5)
    slope = jax.vmap(jax.grad(lambda r, a: dpo(r, a, None, H)))(jnp.ones(2), jnp.array([-2.0, 3.0]))
    np.testing.assert_allclose(slope, [-2.0, 3.0], rtol=1e-6)


def test_a_copy_of_the_page_can_be_changed(tmp_path, monkeypatch):
    """With twice the entropy bonus in the copy, an update is that of the page with twice `ent_coef`."""
    text = (ROOT / "purejaxppo" / "ppo.py").read_text()
    changed = text.replace("h.vf_coef, h.ent_coef)", "h.vf_coef, 2.0 * h.ent_coef)")
    assert changed != text
    (tmp_path / "my_ppo.py").write_text(changed)
    monkeypatch.syspath_prepend(tmp_path)
    names = cook("Changing a copy of the page")
    del sys.modules["my_ppo"]
    _, mine, _ = first_update(names["algo"])
    _, theirs, _ = first_update(names["base"], H._replace(ent_coef=2.0 * H.ent_coef))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), mine.params, theirs.params)


# Loops ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run():
    """The names of three recipes that continue each other."""
    return cook("Schedule over updates", cook("Own metrics"))


def test_metrics_of_ones_own_are_in_extra(run):
    """The cart starts within 0.05 of the center and moves."""
    position = np.asarray(run["metrics"].extra["position"])
    assert position.shape == (3,)
    assert ((position > 0) & (position < 1)).all()


def test_a_schedule_is_what_the_updates_see(run):
    np.testing.assert_allclose(run["metrics"].extra["ent_coef"], [0.05, 0.025, 0.0], atol=1e-7)
    assert run["state"].num_updates == 3


@pytest.mark.slow
def test_a_curriculum_goes_one_cell_farther_with_every_success():
    """The goal of the recipe is always reached; the state begins its next episodes at the new distance."""
    names = cook("Curriculum")
    taught = names["taught"]
    assert taught.env_params == {"distance": 3}
    _, seen = pp.rollout(names["algo"], taught, 1, env_params={"distance": 1})
    assert set(np.asarray(seen.obs[1:].argmax(-1))[np.asarray(seen.is_first[1:])]) == {39}
    start = pp.init_state(names["algo"], 1, env_params={"distance": 1})
    same = names["climb"](names["algo"], start, names["h"], num_updates=1, goal=2.0)
    assert same.env_params == {"distance": 1}


def rock_paper_scissors(opponent):
    """Make a game of one move, in which move 2 is allowed if the opponent is a function."""
    mask = jnp.array([True, True, callable(opponent)])

    def reset(key):
        return jnp.int32(0), {"observation": jnp.ones(1), "action_mask": mask}

    def step(key, state, action):
        _, obs = reset(key)
        other = opponent(key, obs) if callable(opponent) else jnp.int32(0)
        reward = jnp.array([0.0, 1.0, -1.0])[(action - other) % 3]
        return state, TimeStep(obs, reward, jnp.bool_(True), jnp.bool_(False), obs)

    space = {"observation": box(0.0, 1.0, (1,)), "action_mask": box(0, 1, (3,), bool)}
    return Env(reset, step, space, Discrete(3), name="rock, paper, scissors")


def test_the_opponent_of_a_league_plays_by_its_parameters():
    """A network whose parameters are its logits names one move; move 2 wins against 1, and loses against 0."""
    from league import against

    network = Network(lambda key: jnp.zeros(3), lambda p, carry, obs, first: (carry, Categorical(p[None, None]), None))

    def rewards(logits):
        keys = jax.random.split(jax.random.key(0), 8)

        def reward(logits, key):
            return against(rock_paper_scissors, network)(logits).step(key, jnp.int32(0), jnp.int32(2))[1].reward

        return np.asarray(jax.jit(jax.vmap(reward, (None, 0)))(jnp.array(logits), keys))

    assert (rewards([0.0, 50.0, 0.0]) == 1.0).all()
    assert (rewards([50.0, 0.0, 0.0]) == -1.0).all()


@pytest.mark.slow
def test_a_league_changes_its_opponent_without_a_compilation_and_keeps_its_first_and_newest_self():
    from league import against, play_league

    network = pp.mlp(rock_paper_scissors("random"), (4,))
    env = pp.parametrized(against(rock_paper_scissors, network), network.init(jax.random.key(0)))
    algo = pp.make_ppo(env, network, pp.Config(num_envs=4, num_steps=4, num_minibatches=1, total_timesteps=16 * 8))
    state = pp.init_state(algo, 0, H)
    first = jax.device_get(state.params)
    state = play_league(algo, state, H, 1, pool := [first], every=1, newest=0.0)
    jax.tree.map(np.testing.assert_array_equal, state.env_params, first)
    with count_compiles() as compiles:
        state = play_league(algo, state, H, 5, pool, every=1, size=3, newest=0.5)
    assert not compiles, compiles
    assert len(pool) == 3
    assert pool[0] is first
    jax.tree.map(np.testing.assert_array_equal, pool[-1], state.params)


@pytest.mark.skipif(importlib.util.find_spec("pgx") is None, reason="needs pgx")
def test_self_play_of_pgx_trains_and_keeps_its_selves():
    names = cook("Self-play")
    assert names["state"].num_updates == 2
    assert len(names["pool"]) == 3


@pytest.mark.slow
def test_shaping_fades_to_nothing():
    """The scan ends with weight 0, which leaves the plain rewards; weight 1 adds the whole bonus."""
    names = cook("Annealed shaping")
    assert names["state"].env_params == {"weight": 0.0}
    _, last = pp.rollout(names["algo"], names["state"], 1)
    np.testing.assert_array_equal(last.reward, 1.0)
    _, first = pp.rollout(names["algo"], names["state"], 1, env_params={"weight": 1.0})
    bonus = 1.0 - np.abs(np.asarray(first.final_obs)[..., 0]) / 2.4
    np.testing.assert_allclose(first.reward, 1.0 + bonus, rtol=1e-5)


def test_a_warm_start_has_the_parameters_and_nothing_else_of_the_old_run(run):
    start = cook("Warm start", run)["start"]
    jax.tree.map(np.testing.assert_array_equal, start.params, run["state"].params)
    assert start.num_updates == 0
    assert not optax.tree.norm([x for x in jax.tree.leaves(start.opt_state) if x.dtype == jnp.float32])


def test_acting_is_greedy_and_collects_the_return(run):
    """CartPole gives reward 1 per step; the last action is that of the largest logit."""
    names = cook("Acting step by step", run)
    assert names["total"] == names["t"] + 1
    obs = names["obs"]
    _, action = names["act"](names["state"], (), obs, jnp.bool_(False))
    _, distribution, _ = names["algo"].network.apply(
        names["state"].params, (), obs[None, None], jnp.zeros((1, 1), bool)
    )
    assert action == distribution.logits[0, 0].argmax()


# Optimizers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def optimizers():
    names = cook("Own optimizers")
    params = names["algo"].network.init(jax.random.key(0))
    return names, params


def leaves(tree, part):
    return [x for path, x in jax.tree.leaves_with_path(tree) if part in jax.tree_util.keystr(path)]


def test_adamw_decays_matrices_only(optimizers):
    """With gradient 0, Adam does not move; matrices shrink by learning rate times decay."""
    names, params = optimizers
    params = jax.tree.map(lambda x: x + 1.0, params)
    change = step_of(names["adamw"], jax.tree.map(jnp.zeros_like, params), params)
    for x, dx in zip(jax.tree.leaves(params), jax.tree.leaves(change), strict=True):
        np.testing.assert_allclose(dx, -2.5e-5 * x if x.ndim > 1 else 0.0 * x, rtol=1e-4, atol=1e-9)


def test_muon_makes_the_step_of_a_matrix_nearly_orthogonal(optimizers):
    """The singular values of a random gradient become alike."""
    names, params = optimizers
    gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params)
    change = step_of(names["muon"], gradient, params)
    [square] = [dx for dx in leaves(change, "actor") if dx.shape == (64, 64)]
    values = np.linalg.svd(np.asarray(square), compute_uv=False)
    [given] = [g for g in leaves(gradient, "actor") if g.shape == (64, 64)]
    before = np.linalg.svd(np.asarray(given), compute_uv=False)
    assert np.median(before) / before.max() < 0.5
    assert np.median(values) / values.max() > 0.7


def test_the_first_step_of_sgd_is_the_clipped_gradient(optimizers):
    names, params = optimizers
    gradient = jax.tree.map(jnp.ones_like, params)
    norm = np.sqrt(sum(x.size for x in jax.tree.leaves(params)))
    for dx in jax.tree.leaves(step_of(names["sgd"], gradient, params)):
        np.testing.assert_allclose(dx, -2.5e-3 * 0.5 / norm, rtol=1e-5)


def test_frozen_layers_stay_and_the_critic_moves_twice_as_far(optimizers):
    """The first step of Adam has the size of the learning rate in every component."""
    names, params = optimizers
    gradient = jax.tree.map(jnp.ones_like, params)
    frozen, faster = step_of(names["frozen_actor"], gradient, params), step_of(names["faster_critic"], gradient, params)
    assert leaves(params, "actor")
    assert leaves(params, "critic")
    assert all((x == 0.0).all() for x in leaves(frozen, "actor"))
    for dx in leaves(frozen, "critic"):
        np.testing.assert_allclose(dx, -2.5e-3, rtol=1e-4)
    for dx in leaves(faster, "critic"):
        np.testing.assert_allclose(dx, -5e-3, rtol=1e-4)
    for dx in leaves(faster, "actor"):
        np.testing.assert_allclose(dx, -2.5e-3, rtol=1e-4)


# Auxiliary losses and intrinsic rewards ------------------------------------------------------------------------------


def test_the_auxiliary_loss_trains_the_prediction_and_its_gradient_reaches_the_torso():
    names = cook("Auxiliary loss: next-observation prediction")
    _, state, metrics = assert_moves_all_parameters(names["algo"])
    assert metrics.extra["prediction_error"] > 0.0
    obs = jax.random.normal(jax.random.key(0), (1, 16, 4))
    batch = (
        names["pp"]
        .types.Batch(*[None] * 11)
        ._replace(obs=obs, next_obs=obs + 0.1, action=jnp.zeros((1, 16), jnp.int32))
    )
    gradient = jax.jit(jax.grad(names["auxiliary_loss"]))(state.params, batch, H)
    assert all(np.abs(x).max() > 0 for x in leaves(gradient, "torso") + leaves(gradient, "change"))
    assert not optax.tree.norm(leaves(gradient, "policy"))


@pytest.mark.slow
def test_rnd_pays_less_for_what_it_has_seen():
    """After many rollouts of one observation its bonus is below that of all others; the target stays."""
    names = cook("Intrinsic reward: RND")
    before, after, metrics = first_update(names["algo"])
    assert metrics.extra["rnd_error"] > 0.0
    jax.tree.map(np.testing.assert_array_equal, before.intrinsic.target, after.intrinsic.target)
    _, rollout = pp.rollout(names["algo"], before, jax.random.key(1))
    seen = rollout._replace(final_obs=jnp.zeros((8, 4, 40)).at[..., :4].set(1.0))
    apply = jax.jit(names["algo"].components.intrinsic.apply)
    intrinsic = before.intrinsic
    for _ in range(100):
        intrinsic, bonus, _ = apply(intrinsic, seen, H)
    _, other, _ = apply(intrinsic, rollout, H)
    assert other.min() > 5.0 * bonus.max()


def test_the_auxiliary_phase_fits_the_values_and_keeps_the_policy():
    names = cook("Auxiliary phase: PPG")
    errors, kls = np.asarray(names["errors"]), np.asarray(names["kls"])
    np.testing.assert_allclose(kls[0], 0.0, atol=1e-6)  # starts at the policy of the rollout
    assert errors[-1] < 0.8 * errors[0]
    assert kls.max() < 0.05
