"""Environment parameters as axes: one program for all values, and the numbers of the run with each value alone."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_sweeps
from descent import Point, descent
from small_sweeps import BASE, silent
from tiny_sweeps import Killed, die_at, run_sweep

import purejaxppo as pp
from purejaxppo.analysis.study import varied
from purejaxppo.config.toml import dump_toml, from_tables, load_toml, parse_tables
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.sweeps import generalization
from purejaxppo.sweeps.axes import Axis
from purejaxppo.sweeps.generalization import generalization_rows
from purejaxppo.sweeps.session import check_sweep, rerun_trial, start_sweep
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.studies import read_study
from purejaxppo.sweeps.table import read_table, write_tables
from purejaxppo.training.results import evaluate_policy
from purejaxppo.training.runs import build

GRAVITY = {"axes": {"env_params": {"gravity": [5.0, 9.8, 20.0]}}}


def problems(given, base=BASE):
    """Return (key, kind) of everything that a sweep is refused for."""
    sweep, found = parse_sweep(given, base)
    try:
        check_sweep(sweep, found)
    except pp.ConfigError as error:
        return {(problem.key, problem.kind) for problem in error.problems}
    return set()


def axis(name, value, **given):
    return given | {"axes": {"env_params": {name: value}}}


@pytest.mark.parametrize(
    ("given", "base", "expected"),
    [
        (axis("gravity", [5.0, 9.8]), BASE, set()),
        (axis("gravity", {"low": 5.0, "high": 15.0}, method="random", num_settings=20), BASE, set()),
        (axis("max_steps_in_episode", {"low": 5, "high": 15, "count": 3}), BASE, {}),
        (axis("max_steps_in_episode", [5, 15], method="optuna"), BASE, set()),
        (
            axis("max_steps_in_episode", {"low": 5, "high": 15}, method="optuna"),
            BASE,
            {("axes.env_params.max_steps_in_episode", "environment")},
        ),
        (axis("max_steps_in_episode", [0, 5]), BASE, {("axes.env_params.max_steps_in_episode", "environment")}),
        (axis("max_steps_in_episode", [3, 4.5]), BASE, {("axes.env_params.max_steps_in_episode", "environment")}),
        (axis("gravitty", [5.0, 9.8]), BASE, {("axes.env_params.gravitty", "environment")}),
        (axis("gravity", ["low", "high"]), BASE, {("axes.env_params.gravity", "type")}),
        (axis("traced", [1]), BASE, {("axes.env_params.traced", "conflict")}),
        (axis("size", [3, 4]), BASE | {"env": "King-v1"}, {("axes.env_params.size", "conflict")}),
        (axis("rows", [5, 10]), BASE | {"env": "Catch-bsuite"}, {("axes.env_params.rows", "conflict")}),
        (
            axis("gravity", {"low": 5.0, "high": 15.0}, method="population"),
            BASE,
            {("axes.env_params.gravity", "conflict")},
        ),
        (
            axis("gravity", [5.0], structure={"env_params": {"gravity": [9.8]}}),
            BASE,
            {("structure.env_params.gravity", "conflict")},
        ),
    ],
)
def test_what_cannot_be_an_axis_is_refused_before_anything_is_compiled(given, base, expected):
    assert problems(given, base) == set(expected)


def test_the_error_of_a_parameter_that_cannot_be_traced_names_structure():
    sweep, found = parse_sweep(axis("size", [3, 4]), BASE | {"env": "King-v1"})
    with pytest.raises(
        pp.ConfigError, match=r"King-v1 needs a program for each value of it; it belongs in \[structure\]"
    ):
        check_sweep(sweep, found)


def test_the_settings_of_a_trial_trace_the_parameter_too():
    """So that `purejaxppo train settings/1.toml` compiles the same program."""
    sweep, _ = parse_sweep(GRAVITY, BASE | {"env_params": {"length": 0.4}})
    assert [dict(sweep.run(i).env_params) for i in (0, 2)] == [
        {"length": 0.4, "traced": ["gravity"], "gravity": gravity} for gravity in (5.0, 20.0)
    ]
    again = from_tables(parse_tables(dump_toml(sweep.run(1)), "settings"))[0]
    assert build(again).env.params == {"gravity": jnp.float32(9.8)}
    assert sweep.labels == ("gravity=5", "gravity=9.8", "gravity=20")


# Noisy descent whose return is shifted by the parameter --------------------------------------------------------------


class Shifted(NamedTuple):
    params: jax.Array  # [2]
    obs_moments: tuple
    num_updates: jax.Array
    key: jax.Array
    gravity: jax.Array


def shifted_descent(traces):
    """`descent`, whose returns are higher by the gravity of the environment; it has a list of the traces."""
    plain = descent()

    def make(params):
        return Env(lambda key: ((), jnp.zeros(2)), lambda *_: None, box(-1, 1, (2,)), Discrete(2))

    env = make({})._replace(params={"gravity": jnp.float32(9.8)}, family=make)

    def init(key, h, env_params=None):
        level = env.params if env_params is None else env_params
        return Shifted(*plain.init(key, h), level["gravity"])

    def update(state, h):
        traces.append(1)
        after, metrics = plain.update(Point(*state[:-1]), h)
        metrics = metrics._replace(episode_return_mean=metrics.episode_return_mean + state.gravity)
        return Shifted(*after, state.gravity), metrics

    return plain._replace(init=init, update=update, env=env)


@pytest.fixture
def sweep_of(monkeypatch, tmp_path):
    """A function that runs a sweep over shifted descent -> (runner, rows per point, rows per trial, traces)."""

    def run(name, axes, **given):
        traces = []
        monkeypatch.setattr(tiny_sweeps, "ALGORITHM", shifted_descent(traces))
        return *run_sweep(tmp_path / name, {"axes": axes, **given}, monkeypatch), len(traces)

    return run


GRID = {"env_params": {"gravity": [5.0, 9.8, 20.0]}, "learning_rate": [1e-3, 1e-2]}


def test_all_values_share_one_program_and_have_their_results_and_their_column(sweep_of):
    _, table, trials, traces = sweep_of("all", GRID)
    returns = {}
    for gravity in (5.0, 20.0):
        axes = {"env_params": {"gravity": [gravity]}, "learning_rate": [1e-2]}
        _, alone, _, alone_traces = sweep_of(f"{gravity}", axes)
        assert alone_traces == traces, "no value is traced again"
        own = [
            row
            for row in table
            if (row["env_params.gravity"], row["learning_rate"]) == (gravity, alone[0]["learning_rate"])
        ]
        returns[gravity] = [row["return"] for row in own]
        np.testing.assert_allclose(returns[gravity], [row["return"] for row in alone], rtol=1e-6)
    np.testing.assert_allclose(np.array(returns[20.0]) - np.array(returns[5.0]), 15.0, rtol=1e-4)
    assert [trial["env_params.gravity"] for trial in trials] == [x for x in (5.0, 9.8, 20.0) for _ in range(4)]


def test_after_a_kill_the_table_is_the_same(sweep_of, monkeypatch, tmp_path):
    sweep_of("whole", GRID)
    with monkeypatch.context() as patch:
        die_at(4, patch)
        with pytest.raises(Killed):
            sweep_of("killed", GRID)
    sweep_of("killed", GRID)
    for name in ("table.csv", "trials.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_optuna_chooses_values_in_one_program_and_after_a_kill_the_same_ones(sweep_of, monkeypatch, tmp_path):
    """With the value that it chose, each setting has the higher returns of that value."""
    pytest.importorskip("optuna")
    axes = {"env_params": {"gravity": {"low": 1.0, "high": 100.0}}, "learning_rate": [1e-2]}
    given = {"method": "optuna", "num_settings": 4, "batch": 2, "test_seeds": 1}
    runner, table, trials, traces = sweep_of("whole", axes, **given)
    assert traces == sweep_of("grid", {"env_params": {"gravity": [5.0]}})[-1]
    values = [row["env_params.gravity"] for row in trials]
    assert len(set(values)) == 4
    assert [setting["env_params.gravity"] for setting in runner.sweep.settings] == pytest.approx(values[:8:2])
    shifts = [row["return"] - row["env_params.gravity"] for row in table if row["point"] == 3]
    np.testing.assert_allclose(shifts[:8:2], shifts[0], atol=1e-4)
    with monkeypatch.context() as patch:
        die_at(4, patch)
        with pytest.raises(Killed):
            sweep_of("killed", axes, **given)
    sweep_of("killed", axes, **given)
    for name in ("table.csv", "trials.csv"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_sample_of_values_and_halvings_run_in_one_program(sweep_of):
    axes = {"env_params": {"gravity": {"low": 1.0, "high": 100.0, "scale": "log"}}}
    _, _, trials, traces = sweep_of("one", axes, method="random", num_settings=8, halvings=1)
    assert traces == sweep_of("other", axes, method="random", num_settings=2)[-1]
    assert len({trial["env_params.gravity"] for trial in trials}) == 8
    kept = {trial["env_params.gravity"] for trial in trials if trial["status"] == "finished"}
    assert kept == set(sorted(trial["env_params.gravity"] for trial in trials)[::2][-4:]), "higher returns go on"


def test_the_best_setting_of_every_value_is_evaluated_at_other_values(sweep_of, monkeypatch):
    """The evaluation returns the parameter that it was given."""

    def play(engine, states, seeds, env_params=None):
        return np.asarray(env_params["gravity"], np.float64)[:, None]

    monkeypatch.setattr(tiny_sweeps, "play", play)
    monkeypatch.setattr(generalization, "build", None)  # no program is made
    runner, *_ = sweep_of("grid", GRID)
    asked = Axis("env_params.gravity", (3.0, 30.0))
    rows = generalization_rows(runner, asked, silent)
    expected = [(trained, x, x) for trained in (5.0, 9.8, 20.0) for x in (3.0, 30.0, trained) for _ in range(2)]
    np.testing.assert_allclose([(row["trained"], row["value"], row["score"]) for row in rows], expected, rtol=1e-6)
    axes = {"env_params": {"gravity": {"low": 1.0, "high": 30.0}}}
    runner, *_ = sweep_of("sample", axes, method="random", num_settings=8)
    best = max(setting["env_params.gravity"] for setting in runner.sweep.settings)
    assert {row["trained"] for row in generalization_rows(runner, asked, silent)} == {best}


def test_the_report_shows_the_score_against_the_parameter(sweep_of, tmp_path):
    sweep_of("grid", GRID)
    arms = read_study([tmp_path / "grid"]).arms
    assert varied(arms) == ["learning_rate", "env_params.gravity"]
    assert {arm.hyperparams["env_params.gravity"] for arm in arms} == {5.0, 9.8, 20.0}


def test_an_interval_of_the_training_reaches_the_report(sweep_of, tmp_path):
    interval = {"gravity": {"low": 5.0, "high": 15.0}}
    given = {"base": {"env_params": interval}, "generalization": {"env_params": {"gravity": [3.0, 10.0]}}, "seeds": 1}
    runner, *_ = sweep_of("drawn", {"learning_rate": [1e-3]}, **given)
    rows = generalization_rows(runner, runner.sweep.generalization[0], silent)
    assert [(row["trained"], row["trained_high"], row["value"]) for row in rows] == [
        (5.0, 15.0, 3.0),
        (5.0, 15.0, 10.0),
    ]
    write_tables(tmp_path / "drawn", {"generalization": rows})
    (line,) = read_study([tmp_path / "drawn"]).generalization
    assert (line.trained, line.trained_high) == (5.0, 15.0)


@pytest.mark.slow
def test_a_trial_of_cart_pole_is_the_run_with_its_gravity(tmp_path):
    """Of `purejaxppo train settings/1.toml`, and of a run whose gravity is a constant of the program."""
    sweep, found = parse_sweep(GRAVITY | {"seeds": 2, "points": 4, "episodes": 2}, BASE)
    with jax.debug_key_reuse(False):
        groups = check_sweep(sweep, found)
        assert len(groups) == 1
        start_sweep(sweep, groups, tmp_path / "a", 4, "the command", silent)
        assert rerun_trial(tmp_path / "a", 3, silent)
        settings = load_toml(tmp_path / "a" / "settings" / "1.toml")
        trial = read_table(tmp_path / "a" / "trials.csv")[3]
        assert (trial["env_params.gravity"], trial["seed"]) == (9.8, 1)
        rows = [row for row in read_table(tmp_path / "a" / "table.csv") if row["trial"] == 3]
        constant = dataclasses.replace(settings, env_params={"gravity": 9.8})
        for run in (settings, constant):
            algo = build(run)
            state, metrics = pp.train(algo, 1, run.hyperparams)
            expected = metrics.value_loss.reshape(4, 2).mean(1)
            np.testing.assert_allclose([row["value_loss"] for row in rows], expected, rtol=1e-4)
            assert trial["score"] == pytest.approx(evaluate_policy(algo, state, 1, 2, True)["mean"], rel=1e-5)
    other = [row for row in read_table(tmp_path / "a" / "table.csv") if row["trial"] == 5]
    assert [row["value_loss"] for row in other] != [row["value_loss"] for row in rows]
