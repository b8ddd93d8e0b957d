"""docs/derivation.md is true: each equation has code and a test, the names exist, and the code gives the figures."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import endings
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import small_world
from small_world import GAMMA, GRAD_J, MDP, PI, RHO, THETA, A, V

import purejaxppo
from purejaxppo.functional import advantages as adv
from purejaxppo.functional import kl_control, trpo
from purejaxppo.functional import objectives as obj
from purejaxppo.functional.diagnostics import Diagnostics

TESTS = Path(__file__).parents[1]
DOC = (TESTS.parent / "docs" / "derivation.md").read_text(encoding="utf-8")
EQUATIONS = range(1, 14)
IN_THE_ORACLE = {1: "expected_return", 2: "score_expectation", 3: "score_expectation"}
ERRATA = [*(f"E{i}" for i in range(1, 8)), *(f"C{i}" for i in range(1, 10))]


@cache
def names_of_tests(file: str) -> frozenset[str]:
    """Names of the tests in a file below tests/."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def all_names_of_tests() -> set[str]:
    return set().union(*(names_of_tests(path.relative_to(TESTS).as_posix()) for path in TESTS.rglob("test_*.py")))


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, function) of everything like `tests/room/test_x.py::test_y`."""
    return re.findall(r"`tests/([\w/]*test_\w+\.py)::(\w+)`", text)


def named_functions(text: str) -> list[str]:
    """Everything like `purejaxppo.module.name`; the package itself and file names are not meant."""
    return re.findall(r"`(purejaxppo(?:\.\w+){2,})`", text)


def resolve(name: str):
    """The object of a dotted name, purejaxppo.module.attribute...; AttributeError or ImportError if there is none."""
    package, *rest = name.split(".")
    found = importlib.import_module(package)
    for depth, part in enumerate(rest, 1):
        is_package = inspect.ismodule(found) and hasattr(found, "__path__")
        module = ".".join([package, *rest[:depth]])
        is_module = is_package and importlib.util.find_spec(module) is not None
        found = importlib.import_module(module) if is_module else getattr(found, part)
    return found


def block_of_equation(number: int) -> str:
    """From the equation's \\tag to the next equation or heading."""
    after = DOC.split(f"\\tag{{{number}}}", 1)
    assert len(after) == 2, f"({number}) is not in the document"
    return re.split(r"\\tag\{|^#", after[1], maxsplit=1, flags=re.MULTILINE)[0]


def block_of_erratum(name: str) -> str:
    """From the heading `### E1 ...` to the next heading."""
    after = re.split(rf"^### {name} .*$", DOC, maxsplit=1, flags=re.MULTILINE)
    assert len(after) == 2, f"{name} has no heading"
    return re.split(r"^#", after[1], maxsplit=1, flags=re.MULTILINE)[0]


def public_functions():
    """Public functions and methods defined in the package's modules, with their docstrings."""
    for info in pkgutil.walk_packages(purejaxppo.__path__, "purejaxppo."):
        tree = ast.parse(Path(importlib.util.find_spec(info.name).origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{info.name}.{node.name}", ast.get_docstring(node) or ""


# Every equation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", EQUATIONS)
def test_the_equation_has_a_function(number):
    if number in IN_THE_ORACLE:
        assert callable(getattr(oracle, IN_THE_ORACLE[number]))
    else:
        assert [name for name, text in public_functions() if f"({number})" in text]


@pytest.mark.parametrize("number", EQUATIONS)
def test_the_equation_has_a_test(number):
    assert [name for name in all_names_of_tests() if f"eq{number:02d}" in name]


@pytest.mark.parametrize("number", EQUATIONS)
def test_the_document_states_the_equation_once_with_its_function_and_its_test(number):
    assert DOC.count(f"\\tag{{{number}}}") == 1
    block = block_of_equation(number)
    if number in IN_THE_ORACLE:
        assert f"`oracle.{IN_THE_ORACLE[number]}`" in block
    else:
        docstrings = {name: inspect.getdoc(resolve(name)) or "" for name in named_functions(block)}
        assert [name for name, text in docstrings.items() if f"({number})" in text], sorted(docstrings)
    assert [test for _, test in named_tests(block) if f"eq{number:02d}" in test]


# Every name --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(named_functions(DOC))))
def test_a_function_named_in_the_document_exists(name):
    assert callable(resolve(name))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`oracle\.(\w+)", DOC))))
def test_a_function_of_the_oracle_named_in_the_document_exists(name):
    assert callable(getattr(oracle, name))


@pytest.mark.parametrize(("file", "name"), sorted(set(named_tests(DOC))))
def test_a_test_named_in_the_document_exists(file, name):
    assert name in names_of_tests(file)


def test_nothing_that_looks_like_a_name_escapes_these_checks():
    """A misspelt path or prefix would not be found and therefore not be checked."""
    assert len(named_tests(DOC)) == DOC.count("::")
    files = re.findall(r"`((?:tests|docs|notebooks)/[\w./]+)`", DOC)
    assert files
    assert [file for file in files if not (TESTS.parent / file).is_file()] == []
    rows = [line.split("|")[1] for line in DOC.split("## Improvement diagnostics")[1].splitlines() if line[:3] == "| `"]
    metrics = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(Diagnostics._fields) <= metrics
    assert metrics <= {*purejaxppo.Metrics._fields, *Diagnostics._fields}
    settings = {"trpo_delta", "beta_target_kl", "target_kl", "lr_target_kl", "clip_target_kl", "vf_clip_eps"}
    assert settings <= set(purejaxppo.Hyperparams._fields)


@pytest.mark.parametrize("name", ERRATA)
def test_each_erratum_names_its_test(name):
    tests = [test for _, test in named_tests(block_of_erratum(name))]
    assert [test for test in tests if re.search(rf"(?<![A-Za-z0-9]){name}(?![0-9])", test)], tests


def test_formulas_survive_markdown():
    """Some Markdown renderers drop a backslash before punctuation."""
    formulas = re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", DOC, flags=re.DOTALL)
    assert len(formulas) > 30
    assert [f for f in formulas if re.search(r"\\[^A-Za-z]", f)] == []
    assert DOC.replace("$$", "").count("$") % 2 == 0
    assert all(f.count("{") == f.count("}") for f in formulas)


# Every figure under Errata -----------------------------------------------------------------------------------

NUMBERS = tuple(jnp.asarray(x) for x in endings.ROWS)


def largest(x) -> float:
    return float(np.abs(np.asarray(x)).max())


def figures_E1():
    return f"{oracle.clipped_piecewise(0.5, 1.0, 0.8, 1.2):.1f}", f"{np.clip(0.5, 0.8, 1.2):.1f}"


def figures_E2():
    source = RHO @ (PI * (MDP.r + GAMMA * MDP.P @ V)).sum(axis=1) / (1 - GAMMA)
    return f"{small_world.J(THETA):.4f}", f"{source:.4f}"


def figures_E3():
    of_rho = GRAD_J - oracle.score_expectation(RHO, PI, MDP.r) / (1 - GAMMA)
    return [f"{np.linalg.norm(of_rho) / np.linalg.norm(GRAD_J):.3f}"]


def figures_E4():
    step, states = MDP.rho0, np.zeros_like(RHO)
    for _ in range(200):
        states, step = states + step / 200, step @ oracle.transition_under(MDP, PI)
    length = np.linalg.norm(oracle.central_difference(small_world.cpi, THETA)) / np.linalg.norm(GRAD_J)
    cosine = small_world.cosine(oracle.central_difference(lambda t: small_world.cpi(t, states), THETA), GRAD_J)
    return f"{length:.3f}", f"{cosine:.3f}", f"{np.degrees(np.arccos(cosine)):.1f}°"


def figures_E5():
    rows = []
    for old, new in small_world.random_policies():
        advantage = oracle.advantages(MDP, old)
        gain = oracle.expected_return(MDP, new) - oracle.expected_return(MDP, old)
        error = abs(gain - oracle.visitation(MDP, old) @ (new * advantage).sum(axis=1) / (1 - GAMMA))
        bound = 4 * GAMMA * largest(advantage) * oracle.total_variation(old, new).max() ** 2 / (1 - GAMMA) ** 2
        rows.append((error, gain, error / bound))
    error, gain, _ = max(rows)
    direction = np.random.default_rng(2).normal(size=THETA.shape)
    near, far = (
        abs(small_world.J(x) - small_world.J(THETA) - small_world.cpi(x) / (1 - GAMMA))
        for x in (THETA + 0.01 * direction, THETA + 0.1 * direction)
    )
    return f"{error:.2f}", f"{gain:.2f}", f"{100 * max(row[2] for row in rows):.1f} %", f"{far / near:.0f} times"


def figures_E6():
    clip = small_world.two_samples(small_world.clip)
    price = small_world.two_samples(small_world.price, learning_rate=0.002)
    assert clip[1, 0] > 1.2  # out in the first step
    assert clip[-1, 1] < 1.2  # still inside
    return f"{clip[-1, 0]:.2f}", f"{clip[-1, 1]:.2f}", f"{price[-1, 0]:.2f}", f"{price[-1, 1]:.3f}"


def figures_E7():
    rewards = jnp.asarray([1.0, 2.0, 0.0, -1.0, 5.0])
    zero, no = jnp.zeros(5), jnp.zeros(5, bool)
    returns = adv.gae(rewards, zero, zero, no, no, 0.9, 1.0)
    # .5g: to two digits two of the returns are ties
    return [
        *(f"{x:.5g}" for x in np.asarray(returns)),
        *(f"{x:.2f}" for x in np.asarray(adv.normalize_advantages(returns))),
    ]


def figures_C1():
    rewards, values, next_values, terminated, _ = NUMBERS
    off = np.abs(rewards + endings.GAMMA * next_values - values - adv.td_residuals(*NUMBERS[:4], endings.GAMMA))
    assert np.array_equal(off > 1e-6, terminated)
    return str(off.size), str((off > 1e-6).sum()), f"{off.max():.2f}"


def figures_C2():
    rewards, values, next_values, terminated, truncated = endings.ROWS
    settings = {"gamma": endings.GAMMA, "lam": endings.LAM}
    right = oracle.per_environment(oracle.gae_double_sum, *endings.ROWS, **settings)
    across = (rewards, values, next_values, terminated, np.zeros_like(truncated))
    off = np.abs(oracle.per_environment(oracle.gae_double_sum, *across, **settings) - right)
    return f"{100 * (off > 1e-6).mean():.1f} %", f"{off.max():.2f}"


def figures_C3():
    rewards, values, _, *flags = endings.CONSISTENT
    plain = oracle.per_environment(oracle.monte_carlo, rewards, np.zeros_like(rewards), *flags, gamma=endings.GAMMA)
    off = np.abs(plain - values - adv.gae(*map(jnp.asarray, endings.CONSISTENT), endings.GAMMA, 1.0))
    return f"{(off < 1e-5).sum()} of {off.size}", f"{off.max():.2f}"


def figures_C4():
    biases = [small_world.gae_bias(PI, small_world.VALUE_ERROR, lam) for lam in (0.0, 0.5, 0.9)]
    spreads = [np.ptp(bias, axis=1).max() for bias in biases]
    wrong = [largest(small_world.policy_gradient(A + bias) - GRAD_J) for bias in biases]
    states, _, rewards = oracle.simulate(MDP, PI, 5000, 60, np.random.default_rng(3), first=(0, 0))
    no, deviations = jnp.zeros(rewards.shape, bool), []
    for values in (V, V + small_world.VALUE_ERROR):
        numbers = [jnp.asarray(x, jnp.float32) for x in (rewards, values[states[:-1]], values[states[1:]])]
        deviations += [float(adv.gae(*numbers, no, no, GAMMA, lam)[0].std()) for lam in (0.0, 0.9, 1.0)]
    return [f"{x:.3f}" for x in (*spreads, *wrong, *deviations)]


def figures_C5():
    def plain(rewards, values):
        total, later = 0.0, jnp.zeros_like(values[0])
        for t in reversed(range(len(rewards))):
            _, _, next_value, terminated, truncated = (x[t] for x in NUMBERS)
            delta = rewards[t] + endings.GAMMA * jnp.where(terminated, 0.0, next_value) - values[t]
            decay = endings.GAMMA * endings.LAM
            later = delta + decay * jnp.where(terminated | truncated, 0.0, later)
            total += jnp.sum(later**2)
        return total

    def library(rewards, values):
        return jnp.sum(adv.gae(rewards, values, *NUMBERS[2:], endings.GAMMA, endings.LAM) ** 2)

    np.testing.assert_allclose(plain(*NUMBERS[:2]), library(*NUMBERS[:2]), rtol=1e-5)
    assert all(largest(x) == 0 for x in jax.grad(library, argnums=(0, 1))(*NUMBERS[:2]))
    return [f"{max(largest(x) for x in jax.grad(plain, argnums=(0, 1))(*NUMBERS[:2])):.1f}"]


def figures_C6():
    return [f"{float(obj.value_loss(jnp.float32(3.0), jnp.float32(1.0), jnp.float32(0.0))):.1f}"]


def figures_C7():
    beta, path, swapped = jnp.float32(100.0), [], 100.0
    for _ in range(30):
        beta = kl_control.adaptive_beta(beta, 0.1 / beta, 0.01)
        path.append(float(beta))
        swapped *= 2.0 if 0.1 / swapped < 0.01 / 1.5 else 0.5
    assert len(set(path[2:])) == 1
    return ", ".join(f"{x:g}" for x in path[:3]), f"{swapped:.2e}".replace("e+", "e")


def figures_C8():
    means = [float(small_world.expectation(k)(small_world.NEW_LOGITS)) for k in (obj.kl_k1, obj.kl_k2, obj.kl_k3)]
    exact = float(small_world.exact_kl(small_world.NEW_LOGITS))
    assert means[0] == pytest.approx(exact, rel=1e-6) == pytest.approx(means[2], rel=1e-6)
    gradients = [
        jax.grad(f)(small_world.NEW_LOGITS) for f in (small_world.expectation(obj.kl_k2), small_world.exact_kl)
    ]
    old, new = (jax.nn.log_softmax(x) for x in (small_world.OLD_LOGITS, small_world.NEW_LOGITS))
    samples = [(k(new - old), jnp.exp(old)) for k in (obj.kl_k1, obj.kl_k3)]
    variances = [float(jnp.sum(p * k**2) - jnp.sum(p * k) ** 2) for k, p in samples]
    backward = float(jnp.sum(jnp.exp(new) * (new - old)))
    off = f"{100 * (means[1] / exact - 1):.1f} %", f"{largest(gradients[0] - gradients[1]):.3f}"
    return [f"{x:.4f}" for x in (exact, means[1], *variances, backward)] + [*off]


def figures_C9():
    mdp, old, new = small_world.rare_state()
    advantage, rho = oracle.advantages(mdp, old), oracle.visitation(mdp, old)
    gain = oracle.expected_return(mdp, new) - oracle.expected_return(mdp, old)
    kl = (old * np.log(old / new)).sum(axis=1)
    surrogate = rho @ (new * advantage).sum(axis=1)
    bounds = [trpo.improvement_bound(surrogate, x, largest(advantage), mdp.gamma) for x in (kl.max(), rho @ kl)]
    kls = f"{kl.max():.4f}", f"{rho @ kl:.6f}"
    return f"{gain:.6f}", f"{bounds[0]:.5f}", f"{bounds[1]:.6f}", *kls


@pytest.mark.parametrize("name", ERRATA)
def test_the_figures_of_the_erratum_are_what_the_code_gives(name):
    block = " ".join(block_of_erratum(name).replace("−", "-").split())
    figures = list(globals()[f"figures_{name}"]())
    assert figures
    missing = [x for x in figures if not re.search(rf"(?<![\d.]){re.escape(x)}(?!\d)", block)]
    assert missing == []
