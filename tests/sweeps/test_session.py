"""A sweep is checked as a whole before anything is compiled or written."""

import pytest
from command_line import problems_of
from small_sweeps import BASE, GIVEN, run

import purejaxppo as pp
from purejaxppo.sweeps import store
from purejaxppo.sweeps.execution import memory_problem
from purejaxppo.sweeps.session import check_sweep, start_sweep
from purejaxppo.sweeps.spec import parse_sweep


def test_another_sweep_and_the_same_one_in_a_folder_are_refused(tmp_path):
    store.create_folder(tmp_path, parse_sweep(GIVEN, BASE)[0], {})
    for given, text in ((GIVEN, "--resume"), (GIVEN | {"seeds": 3}, "another sweep")):
        with pytest.raises(pp.ConfigError, match=text):
            start_sweep(parse_sweep(given, BASE)[0], [], tmp_path)


def test_a_batch_that_does_not_fit_says_what_would(monkeypatch, tmp_path):
    assert memory_problem(1000, 5, 2, 10_000) is None
    assert "nearest valid value: 5" in memory_problem(1000, 6, 2, 10_000).text
    monkeypatch.setattr("purejaxppo.sweeps.execution.free_memory", lambda: 1_000_000)
    monkeypatch.setattr("purejaxppo.sweeps.execution.forecast", lambda engine: 1000)
    with pytest.raises(pp.ConfigError, match=r"--lanes = 4000.*nearest valid value"):
        run(tmp_path / "large", 4000)
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"axes": {"beta": [0.1, 0.2]}}, "hyperparams.beta"),
        ({"axes": {"clip_eps": [0.1, 0.2]}, "structure": {"objective": ["clip", "kl"]}}, "hyperparams.clip_eps"),
    ],
)
def test_an_axis_that_cannot_matter_is_refused(given, key):
    sweep, problems = parse_sweep(given, BASE)
    with pytest.raises(pp.ConfigError) as caught:
        check_sweep(sweep, problems)
    assert [(problem.key, problem.kind) for problem in caught.value.problems] == [(key, "conflict")]


def test_problems_of_every_group_are_found_at_once():
    given = {"structure": {"num_minibatches": [2, 7], "env": ["CartPole-v1", "CartPoll-v1"]}}
    sweep, problems = parse_sweep(given, BASE)
    with pytest.raises(pp.ConfigError) as caught:
        check_sweep(sweep, problems)
    assert {problem.key for problem in caught.value.problems} == {"env", "config.num_minibatches"}


def test_the_command_line_reports_every_problem(tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text('config = "cartpole"\nsedes = 3\n[axes]\nlearning_rat = [1e-3]\nnum_envs = [4]\n')
    assert problems_of("sweep", file, "--gamma", "0.9,1.5", "--halvings", "99") == {
        ("sedes", "unknown"),
        ("axes.learning_rat", "unknown"),
        ("axes.config.num_envs", "conflict"),
        ("--halvings", "range"),
    }
    assert problems_of("sweep", "CartPole-v1", "--gamma", "0.9,1.5") == {("hyperparams.gamma", "range")}
    assert problems_of("sweep") == {("SWEEP", "missing")}
    assert problems_of("sweep", "--resume", tmp_path, "--lanes", "3") == {("--lanes", "conflict")}
