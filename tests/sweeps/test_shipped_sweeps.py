"""The sweep files of configs/sweeps are valid, whatever they train on."""

import math

import jax
import pytest

from purejaxppo.cli.main import dispatch
from purejaxppo.cli.sweep_command import is_sweep_file, read_files
from purejaxppo.config.shipped import shipped_sweeps
from purejaxppo.config.toml import read_tables
from purejaxppo.sweeps.session import check_sweep
from purejaxppo.sweeps.spec import parse_sweep
from purejaxppo.sweeps.table import read_table


@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_file_is_valid_and_begins_with_a_description(name):
    given, base, source = read_files(name)
    sweep, problems = parse_sweep(given, base)
    groups = check_sweep(sweep, problems, source)
    assert is_sweep_file(read_tables(source))
    assert sum(len(group.settings) for group in groups) == len(sweep.settings) > 1
    assert shipped_sweeps()[name].read_text().startswith("# ")


def test_every_objective_is_trained_on_three_environments():
    sweep, _ = parse_sweep(*read_files("sweeps/objectives")[:2])
    assert len(sweep.settings) == 15
    assert sweep.labels[0] == "clip, CartPole-v1"


TOY = {"total_timesteps": 4 * 16 * 4, "num_envs": 4, "num_steps": 16, "num_epochs": 1, "num_minibatches": 2}


@pytest.fixture(scope="module")
def compile_cache(tmp_path_factory):
    """A folder of compiled programs, since the forecast and the sweep compile some twice."""
    before = jax.config.jax_compilation_cache_dir
    yield tmp_path_factory.mktemp("cache")
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_sweeps())
def test_every_file_runs_at_toy_size_to_its_report(name, tmp_path, monkeypatch, compile_cache):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(compile_cache))
    given, base, _ = read_files(name)
    counts = {"seeds": 2} | {key: value for key, value in {"num_settings": 4, "test_seeds": 2}.items() if key in given}
    words = TOY | counts | {"lanes": 2, "out": tmp_path / "out"}
    options = [word for key, value in words.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with jax.debug_key_reuse(False):
        assert dispatch(["sweep", name, *options]) == 0
    sweep, _ = parse_sweep(given | counts, base)
    trials = read_table(tmp_path / "out" / "trials.csv")
    assert sum(trial["part"] == "selection" for trial in trials) == 2 * len(sweep.settings)
    assert all(math.isfinite(trial["score"]) for trial in trials if trial["status"] == "finished")
    assert not any(trial["status"] == "failed" for trial in trials)
    report = tmp_path / "out" / "report"
    assert (report / "index.html").stat().st_size > 10_000
    assert ("optimism" in (report / "report.md").read_text()) == ("test_seeds" in given)
