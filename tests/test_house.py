"""The structure of the package: floors by folder, no circles, docstrings, small functions, named types."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

import purejaxppo

PACKAGE = Path(__file__).parents[1] / "purejaxppo"

# A room is a folder, or a file at the top. It imports from itself and from lower floors.
FLOORS = (
    {"_util", "config", "devices", "distributions"},
    {"functional", "batching", "envs", "optimizer", "analysis"},
    {"networks", "metrics", "hooks"},
    {"types", "tracking"},
    {"ppo"},
    {"trial"},
    {"assembly"},
    {"training"},
    {"bench", "sweeps"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
INSIDE = {path: tree for path, tree in MODULES.items() if path != "__init__.py"}


def room(path: str) -> str:
    """Return the folder, or the file at the top, that a module belongs to."""
    return path.split("/")[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def rooms_used(tree: ast.AST) -> set[str]:
    """Return the rooms of the package that a file imports from; its version is not a room."""
    return {name.split(".")[1] for name in imported(tree) if name.startswith("purejaxppo.")} - {"__version__"}


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_every_room_has_a_floor_and_every_floor_its_rooms():
    assert {room(path) for path in INSIDE} == set(FLOOR_OF)


@pytest.mark.parametrize("path", INSIDE)
def test_imports_come_from_the_same_room_or_lower_floors(path):
    used, own = rooms_used(INSIDE[path]), room(path)
    assert used <= set(FLOOR_OF), "only rooms: no module imports the public names of the package"
    assert not {name for name in used if name != own and FLOOR_OF[name] > FLOOR_OF[own]}


def test_rooms_do_not_import_each_other_in_a_circle():
    uses = {room(path): set() for path in INSIDE}
    for path, tree in INSIDE.items():
        uses[room(path)] |= rooms_used(tree) - {room(path)}
    while uses:
        free = {name for name, used in uses.items() if not used & uses.keys()}
        assert free, f"these import each other in a circle: {sorted(uses)}"
        uses = {name: used for name, used in uses.items() if name not in free}


@pytest.mark.parametrize("path", sorted(path for path in INSIDE if room(path) in ("functional", "distributions")))
def test_the_mathematics_imports_only_jax(path):
    packages = {name.split(".")[0] for name in imported(INSIDE[path])} - sys.stdlib_module_names
    assert packages <= {"jax", "numpy", "purejaxppo"}
    assert rooms_used(INSIDE[path]) <= {"_util", "functional"}


def test_adapters_of_suites_do_not_import_each_other():
    adapters = {path.removeprefix("envs/suites/").removesuffix(".py") for path in INSIDE if "envs/suites/" in path}
    for name in adapters - {"__init__"}:
        used = imported(INSIDE[f"envs/suites/{name}.py"])
        others = {f"purejaxppo.envs.suites.{other}" for other in adapters - {name}}
        allowed = {"purejaxppo.envs.suites.gymnax"} if name == "examples" else set()  # it wraps CartPole
        assert not used & others - allowed, name


@pytest.mark.parametrize("path", sorted(path for path in INSIDE if path.startswith("tracking/")))
def test_tracking_knows_rows_and_not_the_training_loop(path):
    assert rooms_used(INSIDE[path]) <= {"_util", "tracking", "metrics"}


@pytest.mark.parametrize("path", sorted(path for path in INSIDE if path.endswith("__init__.py")))
def test_every_folder_says_in_two_to_five_lines_what_lives_there(path):
    assert 2 <= len((ast.get_docstring(INSIDE[path]) or "").splitlines()) <= 5


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
    limit = 60
    assert not {f.name: n for f in functions(MODULES[path]) if (n := f.end_lineno - f.lineno + 1) > limit}


def test_every_module_has_a_test_file_of_its_name():
    """Except for ppo.py, whose steps have the files of tests/ppo/."""
    with_functions = [Path(path) for path, tree in INSIDE.items() if functions(tree)]
    tested = [path for path in with_functions if path.name not in ("__init__.py", "__main__.py", "ppo.py")]
    tests = PACKAGE.parent / "tests"
    assert not {str(path) for path in tested if not (tests / path.parent / f"test_{path.name}").is_file()}


def test_no_module_has_the_name_of_a_public_function():
    names = {path.rpartition("/")[2].removesuffix(".py") for path in INSIDE} | {room(path) for path in INSIDE}
    assert not names & set(purejaxppo.__all__)


def test_every_public_name_is_listed_once_and_can_be_imported():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    listed = [alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(listed) == sorted(set(purejaxppo.__all__)), "`import a as a` is how a stub re-exports"
    assert all(hasattr(purejaxppo, name) for name in listed)


def test_one_version():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert project["version"] == purejaxppo.__version__


def test_no_callback_to_the_host_anywhere():
    # One would keep the program out of JAX's persistent compile cache, and stall the device.
    banned = {"pure_callback", "io_callback", "debug_callback", "callback", "experimental.io_callback"}
    # The environments of Gymnasium run on the host: there is no other way to step them.
    for path, tree in (item for item in MODULES.items() if item[0] != "envs/suites/gymnasium.py"):
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names = {name.split(".")[-1] for name in imported(tree)}
        assert not (used | names) & banned, path
        assert "jax.debug" not in imported(tree), path


# Annotations ---------------------------------------------------------------------------------------------------------

# Names of parameters and fields whose type has a name.
NAMED = {
    "algo",
    "state",
    "env_state",
    "rnn_state",
    "opt_state",
    "params",
    "obs",
    "final_obs",
    "action",
    "mask",
    "noise",
    "tree",
    "batch",
    "minibatch",
    "rollout",
    "metrics",
    "h",
    "hyperparams",
    "config",
    "network",
    "policy",
    "figure",
    "axes",
    "run",
    "leaf",
    "dtype",
    "shape",
    "loss",
    "gradient",
    "advantage",
    "key_data",
    "carry",
}
# Front doors: these functions check what they are given, whatever it is.
FRONT_DOORS = {"check_is_env", "_check_is_env", "check_is_network", "check_algorithm", "check_state", "check_policy"}
FRONT_DOORS |= {"_pair_hint", "batch_shape", "_result_problems", "_advice"}


def annotations(tree: ast.AST) -> list[tuple[str, ast.expr, str]]:
    """Return (name, annotation, function) of all parameters and fields; a field has no function."""
    fields = [
        (n.target.id, n.annotation, "")
        for n in ast.walk(tree)
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]
    return fields + [(a.arg, a.annotation, f.name) for f in functions(tree) for a in arguments(f) if a.annotation]


def arguments(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def count_any(tree: ast.AST) -> int:
    """Count the uses of `Any` in a file, except for its import."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


@pytest.mark.parametrize("path", INSIDE)
def test_what_has_a_named_type_is_not_annotated_with_any(path):
    vague = [
        f"{function}({name})"
        for name, annotation, function in annotations(INSIDE[path])
        if ast.unparse(annotation) == "Any" and name in NAMED and function not in FRONT_DOORS
    ]
    assert not vague, "see purejaxppo/_util/aliases.py and purejaxppo/types.py"


def test_any_is_rare():
    # What remains: values of TOML and JSON, arguments of suites, and functions that check what a user passes.
    counts = {}
    for path, tree in INSIDE.items():
        if path != "_util/aliases.py":
            counts[room(path)] = counts.get(room(path), 0) + count_any(tree)
    limits = {"config": 29, "cli": 30, "envs": 54, "training": 42}
    limits |= {"networks": 8, "bench": 5, "devices": 3, "functional": 1, "sweeps": 5}
    assert not {name: n for name, n in counts.items() if n > limits.get(name, 0)}
