"""The results of a run: evaluation figures and the summary."""

import tomllib

import jax
import numpy as np
import pytest

from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Run
from purejaxppo.training import evaluation, evaluation_memory, results
from purejaxppo.training.health import Fault, RunError
from purejaxppo.training.results import Outcome, evaluate_policy, evaluation_line, write_results


@pytest.fixture
def figures(monkeypatch):
    """Figures of three episodes, one of which did not finish."""

    def played(algo, policy, key, num_episodes, greedy, max_steps):
        assert jax.random.key_data(key).tolist() != jax.random.key_data(jax.random.key(3)).tolist()
        columns = np.array([1.0, 2.0, 6.0]), np.array([4, 5, 9]), np.array([True, True, False])
        return evaluation.Evaluation(*columns, fault=np.zeros(3, int))

    monkeypatch.setattr(evaluation_memory, "evaluate_within_memory", played)
    return evaluate_policy("algo", "policy", 3, 3, True)


def test_figures_of_an_evaluation(figures):
    assert figures == {
        "mean": 3.0,
        "std": pytest.approx(np.sqrt(14 / 3), rel=1e-6),
        "min": 1.0,
        "median": 2.0,
        "max": 6.0,
        "mean_length": 6.0,
        "episodes": 3,
        "unfinished": 1,
    }


def test_a_failed_evaluation_is_a_usage_error(monkeypatch):
    def fail(*_):
        raise RunError(Fault("parameters", "the policy has 3 parameters that are NaN or infinite"))

    monkeypatch.setattr(evaluation_memory, "evaluate_within_memory", fail)
    with pytest.raises(UsageError, match="evaluation: the policy has 3 parameters"):
        evaluate_policy("algo", "policy", 3, 3, True)


def test_unfinished_episodes_are_reported(figures):
    line = evaluation_line("greedy", figures)
    assert line.startswith("greedy evaluation   return 3 ± 2.16  (1 to 6, 3 episodes)")
    assert "; 1 " in line
    assert ";" not in evaluation_line("greedy", figures | {"unfinished": 0})


def test_the_summary_says_how_the_run_ended(figures, tmp_path):
    outcome = Outcome("diverged", 1, 0, 12.3456, 3.0, None, "")
    write_results(tmp_path, Run(seed=5), outcome, {"greedy": figures})
    summary = tomllib.loads((tmp_path / "summary.toml").read_text())
    assert (summary["status"], summary["seed"], summary["seconds"]) == ("diverged", 5, 12.346)
    assert summary["versions"].keys() >= {"purejaxppo", "jax", "optax"}
    assert summary["evaluation"]["greedy"] == figures
    assert {entry.name for entry in tmp_path.iterdir()} == {"summary.toml"}  # no update, no curve


def test_a_package_without_metadata_is_left_out(monkeypatch):
    def version(name):
        raise results.PackageNotFoundError(name)

    monkeypatch.setattr(results, "version", version)
    assert results._versions().keys() == {"purejaxppo"}
