"""A sweep file says what is trained, and every mistake in it is found at once."""

import pytest
from readable import readable

from purejaxppo._util.text import hide_password
from purejaxppo.config.errors import ConfigError
from purejaxppo.sweeps.optuna_study import expand_variables
from purejaxppo.sweeps.spec import from_json, parse_sweep, to_json

BASE = {"env": "CartPole-v1", "config": {"num_envs": 8, "total_timesteps": 10_000}}


def problems_of(given, base=None):
    return {(problem.key, problem.kind) for problem in parse_sweep(given, base or BASE)[1]}


def test_settings_are_every_combination_of_list_structure_and_axes():
    given = {
        "seeds": 3,
        "first_seed": 5,
        "test_seeds": 2,
        "axes": {"learning_rate": [1e-3, 1e-2]},
        "structure": {"config": {"num_envs": [4, 16]}},
        "settings": [{"name": "clip"}, {"name": "kl", "objective": "kl", "beta": 3.0}],
    }
    sweep, problems = parse_sweep(given, BASE)
    assert not problems
    assert len(sweep.settings) == 8
    assert sweep.labels[0] == "clip, num_envs=4, learning_rate=0.001"
    last = sweep.run(7, seed=6)
    assert (last.config.objective, last.config.num_envs, last.seed) == ("kl", 16, 6)
    assert (last.hyperparams.learning_rate, last.hyperparams.beta) == (1e-2, 3.0)
    assert last.config.total_timesteps == 10_000
    assert sweep.seeds == (5, 6, 7)
    assert sweep.test_seeds == (8, 9)


def test_short_and_dotted_names_and_changes_of_the_base():
    given = {
        "base": {"total_timesteps": 5000, "hyperparams": {"gamma": 0.9}},
        "axes": {"hyperparams": {"clip_eps": [0.1]}},
    }
    sweep, problems = parse_sweep(given, BASE)
    assert not problems
    run = sweep.run(0)
    assert (run.config.total_timesteps, run.hyperparams.gamma, run.hyperparams.clip_eps) == (5000, 0.9, 0.1)


def test_json_there_and_back_is_the_same_sweep():
    given = {"axes": {"gamma": {"low": 0.9, "high": 0.999}}, "method": "random", "num_settings": 4}
    sweep, _ = parse_sweep(given, BASE)
    again = from_json(to_json(sweep))
    assert again == sweep
    assert again.fingerprint == sweep.fingerprint
    other, _ = parse_sweep(given | {"sampling_seed": 1}, BASE)
    assert other.fingerprint != sweep.fingerprint


@pytest.mark.parametrize(
    ("given", "key", "kind"),
    [
        ({"axes": {"learning_rat": [1.0]}}, "axes.learning_rat", "unknown"),
        ({"axes": {"num_envs": [4, 8]}}, "axes.config.num_envs", "conflict"),
        ({"axes": {"env": ["a"]}}, "env", "conflict"),
        ({"axes": {"learning_rate": []}}, "hyperparams.learning_rate", "range"),
        ({"axes": {"gamma": [0.9, 1.5]}}, "hyperparams.gamma", "range"),
        ({"axes": {"gamma": ["high"]}}, "hyperparams.gamma", "type"),
        ({"structure": {"gamma": [0.9]}}, "structure.hyperparams.gamma", "conflict"),
        ({"structure": {"num_env": [4]}}, "structure.num_env", "unknown"),
        ({"structure": {"num_envs": [4.5]}}, "config.num_envs", "type"),
        ({"structure": {"objective": ["clop"]}}, "config.objective", "choice"),
        ({"settings": []}, "settings", "range"),
        ({"settings": [{"gama": 1.0}]}, "settings[0].gama", "unknown"),
        ({"seed": 3}, "seed", "unknown"),
        ({"generalization": {"gamma": [0.9]}}, "generalization.hyperparams.gamma", "conflict"),
        ({"generalization": {"env_params": {"a": [1.0], "b": [2.0]}}}, "generalization", "conflict"),
        ({"generalization": {"env_params": {"a": []}}}, "generalization.env_params.a", "range"),
        ({"generalization": 3}, "generalization", "type"),
        ({"learning_rate": [1.0]}, "learning_rate", "unknown"),
        ({"seeds": 0}, "seeds", "range"),
        ({"method": "sobol"}, "method", "choice"),
        ({"method": "random"}, "axes", "missing"),
        ({"num_settings": 5}, "num_settings", "conflict"),
        ({"method": "zip", "axes": {"gamma": [0.9], "clip_eps": [0.1, 0.2]}}, "axes", "conflict"),
    ],
    ids=readable,
)
def test_one_mistake_is_one_problem(given, key, kind):
    found = problems_of(given)
    assert {(k.removeprefix("axes."), x) for k, x in found} == {(key.removeprefix("axes."), kind)}


def test_mistakes_say_where_the_setting_belongs_and_what_is_near():
    texts = {
        problem.key: problem.text
        for problem in parse_sweep(
            {"axes": {"num_envs": [4], "learning_rat": [1.0]}, "structure": {"gamma": [1.0]}, "gae_lambda": [1.0]}, BASE
        )[1]
    }
    assert "belongs in [structure]" in texts["axes.config.num_envs"]
    assert "did you mean learning_rate?" in texts["axes.learning_rat"]
    assert "belongs in [axes]" in texts["structure.hyperparams.gamma"]
    assert "belong in [axes]" in texts["gae_lambda"]


RATE = {"learning_rate": {"low": 1e-3, "high": 1e-1, "scale": "log"}}
POPULATION = {"method": "population", "axes": RATE}


@pytest.mark.parametrize(
    ("url", "hidden", "is_refused"),
    [
        ("mysql://me:swordfish@host/db", "mysql://me:***@host/db", True),
        ("mysql://me:sword@fish@host/db", "mysql://me:***@host/db", True),
        ("mysql://me:${SECRET}x@host/db", "mysql://me:***@host/db", True),
        (
            "postgresql://host/db?user=me&password=swordfish&ssl=on",
            "postgresql://host/db?user=me&password=***&ssl=on",
            True,
        ),
        ("postgresql://host/db?password=${SECRET}", "postgresql://host/db?password=***", False),
        ("mysql://me:${SECRET}@host/db", "mysql://me:***@host/db", False),
        ("mysql://me@host:3306/db", "mysql://me@host:3306/db", False),
        ("sqlite:///folder/study.db", "sqlite:///folder/study.db", False),
    ],
)
def test_a_password_is_neither_kept_nor_shown(url, hidden, is_refused):
    problems = parse_sweep({"method": "optuna", "axes": RATE, "storage": url}, BASE)[1]
    assert [(problem.key, problem.kind) for problem in problems] == [("storage", "conflict")] * is_refused
    assert not any("fish" in str(problem) for problem in problems)
    assert hide_password(url) == hidden
    assert hide_password(f"sweep --storage {url} --seeds 3") == f"sweep --storage {hidden} --seeds 3"


def test_a_variable_of_a_storage_is_replaced_or_missing(monkeypatch):
    monkeypatch.setenv("SECRET", "swordfish")
    monkeypatch.delenv("OTHER", raising=False)
    assert expand_variables("mysql://me:${SECRET}@host/db") == "mysql://me:swordfish@host/db"
    with pytest.raises(ConfigError, match="OTHER is not set") as caught:
        expand_variables("mysql://${OTHER}:${SECRET}@host/db")
    assert [(problem.key, problem.kind) for problem in caught.value.problems] == [("storage", "missing")]


@pytest.mark.parametrize("given", [{"axes": RATE}, {"num_settings": 4}, {"share": 0.5}, {"batch": 4}])
def test_nothing_is_said_about_a_method_that_does_not_exist(given):
    assert problems_of({"method": "randm", **given}) == {("method", "choice")}


@pytest.mark.parametrize(
    ("table", "key"), [("structure", "env_params.gravity"), ("generalization", "env_params.gravity")]
)
def test_an_axis_that_is_a_grid_under_every_method_needs_a_count(table, key):
    given = {table: {"env_params": {"gravity": {"low": 1.0, "high": 2.0}}}}
    (problem,) = parse_sweep({"method": "random", "axes": RATE, **given}, BASE)[1]
    assert str(problem) == f"{table}.env_params.gravity.count: needs a count of at least 2"


@pytest.mark.parametrize("method", ["random", "quasi_random", "optuna", "population"])
def test_a_sample_has_no_count(method):
    axis = RATE["learning_rate"] | {"count": 16}
    assert problems_of({"method": method, "axes": {"learning_rate": axis}}) == {
        ("hyperparams.learning_rate.count", "conflict")
    }


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"evaluate_every": 5}, "evaluate_every"),
        ({"base": {"evaluate_every": 5}}, "base.evaluate_every"),
        ({"axes": {"evaluate_every": [5]}}, "axes.evaluate_every"),
        ({"structure": {"evaluate_every": [5, 6]}}, "structure.evaluate_every"),
        ({"settings": [{"evaluate_every": 5}]}, "settings[0].evaluate_every"),
    ],
)
def test_a_sweep_does_not_evaluate_during_training(given, key):
    assert problems_of(given) == {(key, "conflict")}
    assert not problems_of({}, {**BASE, "evaluate_every": 5}), "a config file may be made for `train`"


@pytest.mark.parametrize("values", [[True, False], ["low", "high"], [1.0, True]])
def test_values_of_a_generalization_are_numbers(values):
    assert problems_of({"generalization": {"env_params": {"a": values}}}) == {("generalization.env_params.a", "type")}


@pytest.mark.parametrize(("given", "kind"), [({"score": "area"}, "conflict"), ({"points": 1}, "range")])
def test_a_population_is_compared_between_points_and_scored_at_the_end(given, kind):
    assert problems_of(POPULATION | given) == {(next(iter(given)), kind)}
    assert not problems_of({**POPULATION, "points": 2})


def test_the_ends_of_an_interval_are_numbers():
    given = {"method": "random", "axes": {"gamma": {"low": False, "high": True}}}
    assert problems_of(given) == {("hyperparams.gamma", "missing")}
