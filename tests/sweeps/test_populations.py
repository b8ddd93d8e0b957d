"""A population as a sweep: the table says who copied whom, and the test repeats the schedule of the winner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import problems_of
from tiny_sweeps import ALGORITHM, RATE, UPDATES, Killed, die_at, run_sweep

import purejaxppo as pp
from purejaxppo.sweeps.populations import lineage, member_seeds
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.studies import read_study

SIZE = 8
GIVEN = {"method": "population", "num_settings": SIZE, "test_seeds": 2, "axes": RATE}

pytestmark = pytest.mark.usefixtures("keys_move")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted sweep, its rows per point and its rows per trial."""
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    with pytest.MonkeyPatch.context() as patch, jax.debug_key_reuse(False):
        _, table, trials = run_sweep(folder, GIVEN, patch)
    return folder, table, trials


def columns_of(table, seed):
    """Return (returns, learning rates, parents) of a population, [R, P] each."""
    rows = [row for row in table if (row["seed"], row["part"]) == (seed, "selection")]
    return [np.array([row[name] for row in rows]).reshape(SIZE, 4) for name in ("return", "learning_rate", "parent")]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_worst_runs_copy_the_best_and_change_what_they_copy(whole, seed):
    returns, rates, parents = columns_of(whole[1], seed)
    for point in range(3):
        order = np.argsort(returns[:, point])
        for run in range(SIZE):
            factor = rates[run, point + 1] / rates[int(parents[run, point]), point]
            if run in order[:2]:
                assert parents[run, point] in order[-2:]
                assert (
                    np.isclose(factor, [0.8, 1.25], rtol=1e-5).any()
                    or np.isclose(rates[run, point + 1], [1e-3, 1.0], rtol=1e-5).any()
                )
            else:
                assert (parents[run, point], factor) == (run, 1.0)
    np.testing.assert_array_equal(parents[:, 3], np.arange(SIZE), "nothing is copied after the last point")


def test_populations_and_their_runs_differ(whole):
    first, second = columns_of(whole[1], 0)[0], columns_of(whole[1], 1)[0]
    assert len(np.unique(np.concatenate([first, second])[:, 0])) == 2 * SIZE
    assert not set(member_seeds(0, 4)) & set(member_seeds(1, 4))


def test_the_test_repeats_the_schedule_of_the_winner_with_fresh_seeds(whole):
    """The rates of the ancestors of the best run, applied by hand."""
    _, table, trials = whole
    best = max(
        (t for t in trials if t["part"] == "selection"),
        key=lambda t: (_last_return(table, t) >= _best_return(table, t["seed"]), t["score"]),
    )
    _, rates, parents = columns_of(table, best["seed"])
    run, line = best["setting"], []
    for point in (2, 1, 0):
        line.append(rates[run, point + 1])
        run = int(parents[run, point])
    schedule = [rates[run, 0], *line[::-1]]
    for seed in (2, 3):
        rows = [row for row in table if (row["seed"], row["part"]) == (seed, "test")]
        assert [row["learning_rate"] for row in rows] == pytest.approx(schedule)
        state = ALGORITHM.init(jax.random.key(seed), pp.Hyperparams())
        for row, rate in zip(rows, schedule, strict=True):
            returns = []
            for _ in range(UPDATES // 4):
                state, metrics = ALGORITHM.update(state, pp.Hyperparams(learning_rate=jnp.float32(rate)))
                returns.append(float(metrics.episode_return_mean))
            assert row["return"] == pytest.approx(np.mean(returns), rel=1e-4)


def _last_return(table, trial):
    return max(row["return"] for row in table if row["trial"] == trial["trial"] and row["point"] == 3)


def _best_return(table, seed):
    return max(row["return"] for row in table if (row["seed"], row["part"], row["point"]) == (seed, "selection", 3))


@pytest.mark.parametrize("instant", [1, 3, 6, 9, 11])
def test_after_an_interruption_the_table_is_the_uninterrupted_one(whole, tmp_path, monkeypatch, instant):
    die_at(instant, monkeypatch)
    with pytest.raises(Killed):
        run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    monkeypatch.undo()
    run_sweep(tmp_path / "killed", GIVEN, monkeypatch)
    assert (tmp_path / "killed" / "table.csv").read_text() == (whole[0] / "table.csv").read_text()


def test_the_report_has_the_best_run_of_every_population_and_the_curve_of_its_ancestors(whole):
    folder, table, trials = whole
    selection, test = read_study([folder]).arms
    assert (selection.label, test.label) == ("population of 8", "population of 8")
    assert (selection.seeds, test.seeds, test.is_test) == ((0, 1), (2, 3), True)
    for seed in (0, 1):
        returns, _, parents = columns_of(table, seed)
        winner = int(np.argmax(returns[:, 3]))
        (score,) = [t["score"] for t in trials if (t["seed"], t["setting"], t["part"]) == (seed, winner, "selection")]
        assert selection.scores[seed] == pytest.approx(score)
        run = winner
        for point in (3, 2, 1, 0):
            run = int(parents[run, point])
            assert selection.curves[seed, point] == pytest.approx(returns[run, point])


def test_lineage_by_hand():
    parents = np.array([[0, 2, 0], [1, 1, 1], [1, 2, 2]])
    assert lineage(parents, 0) == [1, 2, 0], "run 0 copied run 2 after the second point, which copied run 1 before"
    assert lineage(parents, 1) == [1, 1, 1]


def test_a_run_that_fails_is_replaced(tmp_path, monkeypatch):
    given = GIVEN | {"axes": {"learning_rate": {"low": 1e-3, "high": 1e12, "scale": "log"}}, "test_seeds": 0}
    _, table, trials = run_sweep(tmp_path / "failing", given, monkeypatch)
    first = [row["return"] for row in table if row["point"] == 0]
    last = [row["return"] for row in table if row["point"] == 3]
    assert np.isnan(first).sum() > np.isnan(last).sum()
    assert {t["status"] for t in trials if np.isfinite(t["score"])} == {"finished"}


@pytest.mark.slow
def test_it_beats_random_search_at_equal_environment_steps(tmp_path, monkeypatch):
    """16 runs with each of 5 seeds, on the problem of test_population."""
    given = {"num_settings": 16, "seeds": 5, "points": 20, "axes": {"learning_rate": RATE["learning_rate"]}}
    best = {}
    for method in ("population", "random"):
        options = {"updates": 400, "lanes": 16, "save_seconds": 1e9}
        _, table, _ = run_sweep(tmp_path / method, given | {"method": method}, monkeypatch, **options)
        rows = [row for row in table if row["point"] == 19]
        best[method] = [np.nanmax([row["return"] for row in rows if row["seed"] == seed]) for seed in range(5)]
    assert np.mean(np.array(best["population"]) > np.array(best["random"])) >= 0.7
    assert np.mean(best["population"]) > np.mean(best["random"])


@pytest.mark.parametrize(
    ("given", "key", "kind"),
    [
        ({"axes": {"learning_rate": [1e-3, 1e-2]}}, "hyperparams.learning_rate", "range"),
        ({"axes": {"ent_coef": {"low": 0.0, "high": 0.1}}}, "hyperparams.ent_coef", "range"),
        ({"share": 0.6}, "share", "range"),
        ({"share": 0.1}, "share", "range"),
        ({"share": "half"}, "share", "type"),
        ({"halvings": 1}, "halvings", "conflict"),
        ({"batch": 4}, "batch", "conflict"),
    ],
)
def test_one_mistake_is_one_problem(given, key, kind):
    problems = parse_sweep({**GIVEN, **given}, {"env": "CartPole-v1"})[1]
    assert [(problem.key, problem.kind) for problem in problems] == [(key, kind)]


def test_the_command_line_has_the_options_of_a_sweep_file():
    args = ("sweep", "CartPole-v1", "--method", "population", "--learning-rate", "1e-3:1e-2:log")
    assert problems_of(*args, "--num-settings", "4", "--share", "0.1") == {("share", "range")}
    assert problems_of(*args, "--storage", "sqlite://") == {("storage", "conflict")}
    assert problems_of(*args[:4], "--learning-rate", "1e-2:1e-3") == {("hyperparams.learning_rate", "range")}
