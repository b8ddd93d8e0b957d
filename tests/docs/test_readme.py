"""The README is true: its code runs, its links and tests exist, its tables and messages are those of the repository."""

import re
import sys
import tomllib
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from nets import params_of

import purejaxppo as pp
from purejaxppo.cli.main import main
from purejaxppo.config.schema import Run
from purejaxppo.functional.running_stats import init_moments
from purejaxppo.training.policy_file import Policy

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def lines_of(block):
    return [line for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def script():
    """The names that the first block defines, at toy size, and the lines that it prints."""
    printed = []
    names = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    code = BLOCKS[0].replace("200_000", "4_096").replace("chunk=10", "chunk=1")
    assert code != BLOCKS[0]
    with jax.debug_key_reuse(False):
        exec(code, names)
    return names, printed


def test_the_first_script_is_short_and_prints_while_it_trains(script):
    names, printed = script
    assert len(lines_of(BLOCKS[0])) <= 10
    assert [line.split(":")[0] for line in printed] == ["update 1", "update 2"]
    assert names["state"].num_updates == 2


def test_the_same_run_is_a_function_that_can_be_mapped(script):
    names, printed = script
    del printed[:]
    with jax.debug_key_reuse(False):  # under vmap the checker counts the keys that a scan passes on as used
        exec(BLOCKS[1], names)
    assert names["metrics"].kl.shape == (3, 8, 2)  # settings, seeds, updates
    assert [line.split(":")[0] for line in printed] == ["greedy return", "return by setting"]


def test_your_own_environment_and_networks_train(script):
    names, _ = script
    exec(BLOCKS[2], names)
    config = pp.Config(num_envs=4, num_steps=4, total_timesteps=32)
    for block in BLOCKS[3:5]:  # a pair of functions, and a flax module
        exec(block, names)
        assert len(lines_of(block)) <= 10
        algo = names["algo"]
        state, metrics = pp.train(pp.make_ppo(algo.env, algo.network, config), jax.random.key(0))
        assert state.num_updates == 2
        assert (metrics.first_ratio_error < 1e-5).all()


def test_the_loop_with_a_trained_policy_runs(tmp_path, monkeypatch):
    """In an environment with the interface of gymnasium that moves a point by the action; the folder is of a run."""
    (block,) = (block for block in BLOCKS if "pp.load" in block)
    env = pp.make("CartPole-v1")
    run = Run("CartPole-v1", network=pp.NetworkConfig(hidden_sizes=(4,)))
    algo = pp.make_ppo(env, pp.make_network(env, run.network))
    state = Policy(params_of(algo.network), init_moments(jax.numpy.zeros(4)))
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    pp.save_policy(tmp_path / "runs" / "mine" / "policy.safetensors", state, run=run, algo=algo)

    class CartPole:
        time = 0

        def reset(self, seed):
            return np.full(4, 0.01, np.float32), {}

        def step(self, action):
            assert action.dtype == np.int32
            assert action in (0, 1)
            self.time += 1
            return np.full(4, action - 0.5), 1.0, False, self.time == 3, {}

    world = CartPole()
    monkeypatch.setitem(sys.modules, "gymnasium", types.SimpleNamespace(make=lambda name: world))
    monkeypatch.chdir(tmp_path)
    names = {"pp": pp}
    exec(block, names)
    assert len(lines_of(block)) <= 8
    assert names["truncated"]
    assert world.time == 3


def test_targets_of_links_exist():
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXT)
    assert len(targets) >= 4
    assert [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()] == []


def test_links_to_sections_name_headings():
    found = re.findall(r"\]\(([^)#]+)#([^)]+)\)", TEXT)
    assert found
    for file, anchor in found:
        headings = re.findall(r"^#+ (.*)$", (ROOT / file).read_text(), re.M)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_tests_named_exist():
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(found) >= 4
    for file, name in found:
        assert f"def {name}" in (ROOT / file).read_text() if name else (ROOT / file).exists()


def test_the_table_of_files_is_the_floors_of_the_house():
    """Each row names the rooms of one floor, lowest first. The entry point `__main__` is left out."""
    tree = (ROOT / "tests" / "test_house.py").read_text()
    floors = re.search(r"^FLOORS = (\(.*?^\))", tree, re.S | re.M)
    expected = [names for names in eval(floors[1]) if names != {"__main__"}]
    rows = re.findall(r"^\| ((?:`[a-z_]+` ?)+)\| .*\|$", TEXT, re.M)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == expected


def test_results_are_those_of_the_results_page():
    results = (ROOT / "docs" / "results.md").read_text().splitlines()
    rows = re.findall(r"^\| [A-Z][\w-]+ \| \d+k \|.*$", TEXT, re.M)
    assert len(rows) == 4
    assert [row for row in rows if row not in results] == []


def test_there_are_as_many_faults_as_it_says():
    mutants = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]
    assert len(mutants) >= int(re.search(r"more than (\d+) faults", TEXT)[1])


def test_the_error_printed_is_the_error_given(capsys, monkeypatch):
    shown = re.search(r"    \$ purejaxppo (train [^\n]*--hyperparams.gamma 1.5)\n((?:    [^\n]*\n)+)", TEXT)
    monkeypatch.chdir(ROOT)
    assert main(shown[1].split()) == 2
    said = capsys.readouterr().err.rstrip().splitlines()
    assert said == [line[4:] for line in shown[2].rstrip("\n").splitlines()]
