"""CONTRIBUTING names files and commands that exist, and the reader's test is what an update does."""

import cProfile
import re
from collections import defaultdict
from pathlib import Path

import jax
import pytest

import purejaxppo as pp
from purejaxppo.training.loop import as_traced

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
STEPS = {
    title: re.findall(r"^\| `(purejaxppo/[\w/]+\.py)` \| `([\w.]+)` \|", section, re.M)
    for title, section in re.findall(
        r"^\*\*(.+?)\*\*\n\n(\|.*?)(?:\n\n|\Z)", TEXT.split("## A reader's test")[1], re.M | re.S
    )
}


def test_files_and_folders_named_exist():
    paths = re.findall(r"`((?:purejaxppo|tests|benchmarks|docs)/[\w/.]*)`", TEXT)
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_tables_named_are_defined_in_the_file_named():
    named = re.findall(r"`([A-Z_]+)` (?:of|in) `([\w/]+\.py)`", TEXT)
    assert len(named) >= 7
    for name, path in named:
        assert re.search(rf"^{name}\b.* = ", (ROOT / path).read_text(), re.M), (name, path)


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", TEXT, re.M))
    assert named >= {"install", "check", "test", "test-slow", "test-perf", "mutants"}
    assert named <= targets
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())
    assert phony == targets


def test_make_check_runs_every_hook_of_a_commit_and_the_tests():
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)[1]
    hooks = re.findall(r"entry: \.venv/bin/(\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert len(hooks) >= 5
    for tool in {*hooks, "ruff format --check", "-m pytest"}:
        assert tool in check, tool


# ---- the reader's test


@pytest.fixture(scope="module")
def calls():
    """File -> names of the functions called in making the default algorithm and tracing one update of it."""
    env = pp.make("CartPole-v1")
    network = pp.mlp(env)
    h = as_traced(pp.Hyperparams())
    profile = cProfile.Profile(builtins=False)
    with profile:
        algo = pp.make_ppo(env, network)
        state = jax.eval_shape(algo.init, jax.random.key(0), h)
        jax.eval_shape(algo.update, state, h)
    names = defaultdict(set)
    for code in (entry.code for entry in profile.getstats()):
        if code.co_filename.startswith(str(ROOT / "purejaxppo")):
            path = Path(code.co_filename).relative_to(ROOT).as_posix()
            names[path].add(code.co_qualname.replace("<locals>.", ""))
    return names


def test_three_quantities_are_followed():
    assert list(STEPS) == ["`gamma`", "`target_kl`", "One reward"]
    assert all(len(steps) >= 3 for steps in STEPS.values())


def test_ten_files_are_met_at_most():
    assert len({file for steps in STEPS.values() for file, _ in steps}) <= 10


@pytest.mark.parametrize("title", STEPS)
def test_every_function_is_called_in_a_default_update(calls, title):
    for file, function in STEPS[title]:
        if function != "Hyperparams":
            assert function in calls[file], (file, function)


@pytest.mark.parametrize("name", ["gamma", "target_kl"])
def test_the_first_step_declares_the_quantity(name):
    file, function = STEPS[f"`{name}`"][0]
    assert (file, function) == ("purejaxppo/config/schema.py", "Hyperparams")
    assert name in pp.Hyperparams._fields


@pytest.mark.parametrize("title", STEPS)
def test_every_step_on_the_page_goes_forward(title):
    source = (ROOT / "purejaxppo" / "ppo.py").read_text()
    functions = [function.split(".")[0] for file, function in STEPS[title] if file == "purejaxppo/ppo.py"]
    places = [source.index(f"\ndef {function}(") for function in functions]
    assert places == sorted(places)
    assert places
