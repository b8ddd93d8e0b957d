"""Pages of documentation name files and tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
    if path.name != "mutants.md"  # a record of earlier runs, with the names of that time
]
FOLDERS = ("purejaxppo", "tests", "benchmarks", "configs", "docs", "notebooks")


@cache
def names_of_tests(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_and_folders_named_exist(page):
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]*)(?:::\w+)?`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tests_named_exist(page):
    named = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)::(\w+)", page.read_text())
    missing = []
    for file, test in named:
        paths = [ROOT / file] if "/" in file else list((ROOT / "tests").rglob(file))
        if not any(test in names_of_tests(path) for path in paths):
            missing.append(f"{file}::{test}")
    assert missing == []
