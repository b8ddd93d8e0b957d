"""Population-based training copies whole runs, and on a problem whose best step size changes it beats random search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from descent import descent

import purejaxppo as pp
from purejaxppo.sweeps.population import choose_parents, explore, train_population

ALGO = descent()
BOUNDS = {"learning_rate": (1e-4, 1.0)}
SIZE, ROUNDS, UPDATES = 16, 20, 20

pytestmark = pytest.mark.usefixtures("keys_move")


def population(seed, rounds=ROUNDS, updates=UPDATES):
    rates = 10 ** np.random.default_rng(seed).uniform(-4, 0, SIZE)
    return train_population(ALGO, seed, pp.Hyperparams(jnp.asarray(rates, jnp.float32)), BOUNDS, rounds, updates)


@pytest.mark.slow
def test_it_beats_random_search_at_equal_environment_steps():
    """Random search is the same population without a comparison until its end; both are judged by their last round."""
    ours = [float(population(seed).scores[-1].max()) for seed in range(10)]
    random = []
    for seed in range(10):
        rates = 10 ** np.random.default_rng(seed).uniform(-4, 0, SIZE)
        h = pp.Hyperparams(jnp.asarray(rates, jnp.float32))
        still = train_population(ALGO, seed, h, {"gamma": (0.5, 0.9)}, 1, (ROUNDS - 1) * UPDATES)
        later = jax.vmap(lambda s, h: jax.lax.scan(lambda s, _: ALGO.update(s, h), s, length=UPDATES))
        _, metrics = later(still.states, still.hyperparams)
        random.append(float(jnp.nanmax(metrics.episode_return_mean.mean(1))))
    assert np.mean(ours) > 0.8 * np.mean(random), "both negative"
    assert np.mean(np.array(ours) > np.array(random)) >= 0.7


def test_copies_are_whole_states_and_changed_hyperparameters():
    result = population(0, rounds=2, updates=3)
    before = np.asarray(result.history.learning_rate)
    parents = np.asarray(result.parents)
    scores = np.asarray(result.scores)
    worst, best = np.argsort(scores[0])[:4], np.argsort(scores[0])[-4:]
    for run in range(SIZE):
        if run in worst:
            assert parents[0, run] in best
            factor = before[1, run] / before[0, parents[0, run]]
            assert np.isclose(factor, [0.8, 1.25], rtol=1e-5).any() or before[1, run] in (1e-4, 1.0)
        else:
            assert parents[0, run] == run
            assert before[1, run] == before[0, run]
    np.testing.assert_array_equal(parents[1], np.arange(SIZE), "nothing is copied after the last round")
    assert (np.asarray(result.states.num_updates) == 6).all()
    assert len(np.unique(np.asarray(result.states.params)[:, 1])) == SIZE, "copies draw their own random numbers"


def test_a_failed_run_is_the_worst_and_is_replaced():
    rates = jnp.asarray([1e30, *np.logspace(-3, -1.5, 7)], jnp.float32)
    result = train_population(ALGO, 0, pp.Hyperparams(rates), {"learning_rate": (1e-4, 1e-1)}, 3, 10)
    assert result.scores[0, 0] == -jnp.inf
    assert result.parents[0, 0] != 0
    assert jnp.isfinite(result.scores[1:]).all()
    assert jnp.isfinite(result.states.params).all()


def test_parents_and_exploration_by_hand():
    parents = choose_parents(jax.random.key(0), jnp.array([3.0, -jnp.inf, 5.0, 1.0]), 1)
    np.testing.assert_array_equal(parents, [0, 2, 2, 3])
    with_failures = choose_parents(jax.random.key(0), jnp.array([-jnp.inf, -jnp.inf, 5.0, -jnp.inf]), 2)
    assert sorted(np.asarray(with_failures)) == [2, 2, 2, 3], "the two worst copy the only healthy run"
    h = pp.Hyperparams(jnp.array([0.1, 0.2, 0.9, 0.4]))
    changed = explore(jax.random.key(1), h, parents, parents != jnp.arange(4), (("learning_rate", 0.0, 1.0),))
    assert float(changed.learning_rate[1]) in (pytest.approx(0.72), pytest.approx(1.0))
    np.testing.assert_array_equal(changed.learning_rate[jnp.array([0, 2, 3])], h.learning_rate[jnp.array([0, 2, 3])])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hyperparams": pp.Hyperparams(1e-3)}, "arrays of one length"),
        ({"bounds": {"gama": (0.1, 0.2)}}, "gama"),
        ({"bounds": {"gamma": (0.3, 0.2)}}, "0 < low < high"),
        ({"share": 0.9}, "at most 0.5"),
    ],
)
def test_a_wrong_argument_is_refused(change, text):
    given = {"hyperparams": pp.Hyperparams(jnp.ones(8)), "bounds": BOUNDS, "num_rounds": 1, "updates_per_round": 1}
    with pytest.raises(ValueError, match=text):
        train_population(ALGO, 0, **(given | change))
