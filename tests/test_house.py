"""The house keeps its shape: floors, no circles, docstrings, small functions, one page."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

import purejaxppo

PACKAGE = Path(__file__).parents[1] / "purejaxppo"

# A module imports from its own floor and from lower ones. `purejaxppo/__init__.py` is the front door: it imports from
# every floor and nothing inside the package imports from it.
FLOORS = (
    {
        "advantages",
        "objectives",
        "distributions",
        "trust_region",
        "statistics",
        "diagnostics",
        "bootstrap",
        "minibatches",
        "initializers",
        "hlo",
        "microbatches",
        "devices",
        "burn_in",
    },
    {
        "config",
        "workloads",
        "environment",
        "spaces",
        "wrappers",
        "masks",
        "envs",
        "networks",
        "encoders",
        "dense",
        "heads",
        "recurrent",
        "optimizer",
        "state",
        "metrics",
    },
    {"ppo"},
    {"train", "evaluate", "sweep", "checkpoint", "bench", "isolate"},
    {"cli", "options", "progress", "loggers", "plots"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def room(path: str) -> str:
    """The name that FLOORS lists: all of envs/ is one room."""
    return path.split("/")[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that a file imports, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def rooms_used(tree: ast.AST) -> set[str]:
    """Rooms of the package that a file imports from; its version is no room."""
    return {name.split(".")[1] for name in imported(tree) if name.startswith("purejaxppo.")} - {"__version__"}


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


INSIDE = {path: tree for path, tree in MODULES.items() if path != "__init__.py"}


def test_every_file_has_a_floor_and_every_name_a_file():
    assert {room(path) for path in INSIDE} == set(FLOOR_OF)


@pytest.mark.parametrize("path", INSIDE)
def test_imports_come_from_the_same_or_lower_floors(path):
    used = rooms_used(INSIDE[path])
    assert used <= set(FLOOR_OF), "only modules: nothing inside imports from the front door"
    higher = {name for name in used if FLOOR_OF[name] > FLOOR_OF[room(path)]}
    assert not higher


def test_no_circles():
    uses = {room(path): set() for path in INSIDE}
    for path, tree in INSIDE.items():
        uses[room(path)] |= rooms_used(tree) - {room(path)}
    while uses:
        free = {name for name, used in uses.items() if not used & uses.keys()}
        assert free, f"these import each other in a circle: {sorted(uses)}"
        uses = {name: used for name, used in uses.items() if name not in free}


@pytest.mark.parametrize("path", sorted(f"{name}.py" for name in FLOORS[0]))
def test_the_mathematics_stands_on_jax_alone(path):
    packages = {name.split(".")[0] for name in imported(MODULES[path])} - sys.stdlib_module_names
    assert packages <= {"jax", "numpy", "purejaxppo"}


@pytest.mark.parametrize("path", MODULES)
def test_every_public_name_has_a_docstring(path):
    bare = [] if ast.get_docstring(MODULES[path]) else ["(the module)"]
    nodes = [(node, "") for node in MODULES[path].body]
    while nodes:
        node, prefix = nodes.pop()
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        bare += [] if ast.get_docstring(node) else [prefix + node.name]
        if isinstance(node, ast.ClassDef):
            nodes += [(child, f"{node.name}.") for child in node.body]
    assert not bare


@pytest.mark.parametrize("path", MODULES)
def test_no_function_is_longer_than_60_lines(path):
    assert not {f.name: n for f in functions(MODULES[path]) if (n := f.end_lineno - f.lineno + 1) > 60}


def test_ppo_is_one_page():
    assert len((PACKAGE / "ppo.py").read_text().splitlines()) <= 250


def test_one_version():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == purejaxppo.__version__


def test_no_callback_to_the_host_anywhere():
    # One would keep the program out of JAX's persistent compile cache, and stall the device.
    banned = {"pure_callback", "io_callback", "debug_callback", "callback", "experimental.io_callback"}
    for path, tree in MODULES.items():
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names = {name.split(".")[-1] for name in imported(tree)}
        assert not (used | names) & banned, path
        assert "jax.debug" not in imported(tree), path
