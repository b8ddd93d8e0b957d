"""The faults of mutants.toml fit the code, and their tests exist. `make mutants` shows that these tests fail."""

import ast
import builtins
import re
import subprocess
from functools import cache
from pathlib import Path

import mutants
import pytest

MUTANTS = {mutant.id: mutant for mutant in mutants.load()}


@cache
def names_of_tests(file: str) -> frozenset[str]:
    tree = ast.parse((mutants.ROOT / file).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_fits_the_code_once_and_is_valid_python(name):
    mutant = MUTANTS[name]
    source = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
    faulty = mutants.mutated(source, mutant)
    assert "\n" not in mutant.old + mutant.new
    assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_reads_no_name_that_its_file_does_not_bind(name):
    """A fault that ends in a NameError shows nothing."""
    mutant = MUTANTS[name]
    source = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(mutants.mutated(source, mutant))))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    assert read <= bound | set(dir(builtins))


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tests_that_a_fault_names_exist(name):
    assert MUTANTS[name].tests
    for test in MUTANTS[name].tests:
        file, function = re.fullmatch(r"(tests/[\w/]*test_\w+\.py)::(test_\w+)(?:\[.+\])?", test).groups()
        assert function in names_of_tests(file)


def test_faults_are_unique():
    assert len(MUTANTS) == len(mutants.load())
    assert len({(m.file, m.old, m.new) for m in MUTANTS.values()}) == len(MUTANTS)


def test_the_document_shows_every_fault_and_none_that_survived():
    text = mutants.TABLE.read_text(encoding="utf-8")
    assert re.findall(r"^\| ([\w-]+) \| `", text, re.MULTILINE) == list(MUTANTS)
    assert f"**{len(MUTANTS)} of {len(MUTANTS)} killed**" in text


def test_an_old_text_that_does_not_occur_once_is_refused():
    mutant = mutants.Mutant("x", "f.py", "a + b", "a - b", "", [])
    assert mutants.mutated("y = a + b", mutant) == "y = a - b"
    for source in ("y = a", "y = a + b + a + b"):
        with pytest.raises(ValueError, match="x: the old text occurs"):
            mutants.mutated(source, mutant)


@pytest.mark.parametrize(
    ("code", "output", "raises", "killer"),
    [
        (1, "FAILED tests/t.py::f[a b] - assert 1 == 2", "AssertionError", "tests/t.py::f[a b]"),
        (1, "FAILED tests/t.py::f - AssertionError: \nmore", "AssertionError", "tests/t.py::f"),
        (1, "FAILED tests/t.py::f - jax.errors.KeyReuseError: twice", "KeyReuseError", "tests/t.py::f"),
        (1, "FAILED tests/t.py::f - TypeError: no", "AssertionError", ""),
        (1, "FAILED tests/t.py::f - assert 1 == 2", "KeyReuseError", ""),
        (1, "ERROR tests/t.py::f - AssertionError", "AssertionError", ""),
        (2, "ERROR tests/t.py - SyntaxError", "AssertionError", ""),
        (4, "ERROR: not found", "AssertionError", ""),
        (0, "1 passed", "AssertionError", ""),
    ],
)
def test_only_a_failure_as_expected_counts(code, output, raises, killer):
    result = subprocess.CompletedProcess([], code, stdout=f"F\n{output}\n", stderr="")
    found, note = mutants.read_outcome(result, raises)
    assert found == killer
    assert bool(note) != bool(killer)


def test_the_fault_is_removed_afterwards(tmp_path, monkeypatch):
    (tmp_path / "f.py").write_text("y = a + b\n")
    seen = []
    monkeypatch.setattr(
        mutants, "run_tests", lambda folder, *_: seen.append(Path(folder / "f.py").read_text()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        mutants.judge(tmp_path, mutants.Mutant("x", "f.py", "a + b", "a - b", "", []))
    assert seen == ["y = a - b\n"]
    assert (tmp_path / "f.py").read_text() == "y = a + b\n"
