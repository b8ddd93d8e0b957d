"""The README says what is so: its code runs, its links lead somewhere, its command line answers as printed."""

import re
from pathlib import Path

import jax
import pytest

import purejaxppo as pp
from purejaxppo.cli.main import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture(scope="module")
def names():
    """The first block's names at toy size; the others go on from there, as a reader would."""
    space = {}
    with jax.debug_key_reuse(False):  # of the vmapped lines: the checker takes the move of a scan's keys for a use
        exec(BLOCKS[0].replace("500_000", "4_096"), space)
    return space


def test_the_first_script_runs_and_is_ten_lines(names):
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 10
    assert names["metrics"].kl.shape == (3, 8, 2)  # settings, seeds, updates


def test_the_loop_over_chunks_runs(names, capsys):
    exec(BLOCKS[1].replace("chunk=10", "chunk=1"), names)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_your_own_environment_and_network_train(names):
    exec(BLOCKS[2], names)
    config = pp.Config(num_envs=4, num_steps=4, total_timesteps=32)
    for block in BLOCKS[3:5]:  # two functions; a flax module
        exec(block, names)
        assert len([line for line in block.splitlines() if line.strip()]) <= 10
        algo = names["algo"]
        state, metrics = pp.train(pp.make_ppo(algo.env, algo.network, config), jax.random.key(0))
        assert state.num_updates == 2
        assert (metrics.first_ratio_error < 1e-5).all()


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(targets) >= 4
    assert [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()] == []


def test_tests_named_exist():
    for file, name in re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", TEXT):
        assert f"def {name}" in (ROOT / file).read_text() if name else (ROOT / file).exists()


def test_the_error_printed_is_the_error_given(capsys, monkeypatch):
    shown = re.search(r"    \$ purejaxppo (train [^\n]*--hyperparams.gamma 1.5)\n((?:    [^\n]*\n)+)", TEXT)
    monkeypatch.chdir(ROOT)
    assert main(shown[1].split()) == 2
    said = capsys.readouterr().err.rstrip().splitlines()
    assert said == [line[4:] for line in shown[2].rstrip("\n").splitlines()]
