"""Single values: types, intervals and choices, judged by the value that the program computes with."""

import dataclasses
import math
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.config.checks import check, check_settings, find_problems
from purejaxppo.config.errors import ConfigError
from purejaxppo.config.schema import TABLES, Config, Hyperparams, NetworkConfig, Run
from purejaxppo.config.values import INTERVALS, as_float32, show_value, unknown_choice, value_problems


def replaced(table, name, value):
    if isinstance(table, tuple):
        return table._replace(**{name: value})
    return dataclasses.replace(table, **{name: value})


def problems_of(key, value):
    """Return the problems of one setting in an otherwise valid Run."""
    table, _, name = key.rpartition(".")
    if table:
        return find_problems(**{table: replaced(TABLES[table](), name, value)})
    try:
        check(Run(**{name: value}))
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize("key", [key for key in INTERVALS if not key.endswith("hidden_sizes")])
def test_every_interval_contains_its_ends_and_nothing_beyond(key):
    table, _, name = key.rpartition(".")
    interval = INTERVALS[key]
    low, high = (float(x) for x in interval[1:-1].split(","))
    whole = get_type_hints(TABLES[table] if table else Run)[name] is int

    def accepted(value: float) -> bool:
        value = int(value) if whole and math.isfinite(value) else value
        return not any(problem.key == key and problem.kind == "range" for problem in problems_of(key, value))

    step = 1.0 if whole else 1e-6
    assert accepted(low) == (interval[0] == "[")
    assert accepted(high) == (interval[-1] == "]")
    assert not accepted(low - step)
    assert math.isinf(high) or not accepted(high + step)
    assert accepted(low + step)
    assert whole or not accepted(math.nan)


def test_every_number_has_its_interval():
    for name, cls in TABLES.items():
        numbers = {f"{name}.{key}" for key, hint in get_type_hints(cls).items() if hint in (int, float)}
        assert numbers <= INTERVALS.keys()


# What each kind of interval refuses and accepts, by the float32 value: 1 - 1e-9 is 1, 1e39 is inf, 1e-40 is 0.
BY_FLOAT32 = {
    "[0, 1]": ([1e39, 10**400, 1.0 + 1e-9, -1e-50], [1.0 - 1e-9, 1e-50]),
    "[0, 1)": ([1e39, 10**400, 1.0 - 1e-9], [1.0 - 1e-6, 1e-50]),
    "[0, inf)": ([1e39, 10**400, -1e39], [1e38, 1e-50]),
    "(0, inf)": ([1e39, 10**400, 1e-50, 1e-40], [1e38, 1e-30]),
    "(0, inf]": ([10**400, -(10**400), 1e-50, 1e-40], [1e39, 1e-30]),
    "(1, inf]": ([10**400, 1.0 + 1e-9, 1e-50], [1e39, 1.0 + 1e-6]),
}


@pytest.mark.parametrize("field", Hyperparams._fields)
def test_numbers_are_judged_by_their_float32_value(field):
    refused, accepted = BY_FLOAT32[INTERVALS[f"hyperparams.{field}"]]
    for value in refused:
        assert [(p.key, p.kind) for p in problems_of(f"hyperparams.{field}", value)] == [
            (f"hyperparams.{field}", "range")
        ]
    for value in accepted:
        assert not problems_of(f"hyperparams.{field}", value)


@pytest.mark.parametrize(
    ("field", "value", "used"),
    [("learning_rate", 1e39, "inf"), ("adam_b2", 0.99999999, "1"), ("adam_eps", 1e-50, "0"), ("adam_eps", 1e-40, "0")],
)
def test_the_float32_value_is_named(field, value, used):
    (problem,) = problems_of(f"hyperparams.{field}", value)
    assert problem.text.endswith(f"; as a float32 it is {used}")


def test_subnormal_numbers_are_zero_in_a_program():
    """This is why they are judged as 0: XLA flushes them."""
    tiny = np.float32(1e-40)
    assert jax.jit(lambda x: x * 1.0)(tiny) == 0.0 == as_float32(np.asarray(1e-40))


@pytest.mark.parametrize("digits", [20, 401, 5001])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_of_any_length(digits, sign):
    (problem,) = problems_of("config.num_envs", sign * 10 ** (digits - 1))
    assert problem.kind == "range"
    assert len(problem.text) < 120
    assert show_value(10**400) == "an integer of 401 digits"


def test_a_float_setting_accepts_an_integer():
    check_settings(hyperparams=Hyperparams(gamma=1))
    check_settings(Config(num_envs=np.int64(64)))


def test_inf_switches_limits_off():
    off = [key.split(".")[1] for key, interval in INTERVALS.items() if interval.endswith("inf]")]
    assert "max_grad_norm" in off
    check_settings(hyperparams=Hyperparams()._replace(**dict.fromkeys(off, math.inf)))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("value", [None, "x", [1.5], {}, (1, True), 1.5j, object()])
def test_every_setting_refuses_values_of_other_types(name, value):
    """Each problem names its key. A setting that takes any text has another kind of problem."""
    for key, hint in get_type_hints(TABLES[name]).items():
        (problem,) = value_problems(f"{name}.{key}", value, hint)
        assert problem.key == f"{name}.{key}"
        assert problem.kind == (
            "choice" if value == "x" and hint not in (int, float, bool, tuple[int, ...]) else "type"
        )


def test_sizes_are_checked_one_by_one():
    found = find_problems(network=NetworkConfig(hidden_sizes=(64, 0, -1)))
    assert [(p.key, p.kind) for p in found] == [
        ("network.hidden_sizes[1]", "range"),
        ("network.hidden_sizes[2]", "range"),
    ]


def test_arrays_are_checked_element_by_element():
    with pytest.raises(ConfigError, match=r"hyperparams\.gamma\[1\] = 1\.5"):
        check_settings(hyperparams=Hyperparams(gamma=jnp.array([0.9, 1.5])))
    check_settings(hyperparams=Hyperparams(gamma=jnp.array([0.9, 1.0]), learning_rate=np.float32(1e-3)))
    for array, kind in ((jnp.array(True), "type"), (np.zeros(0), "range"), (np.array([0.5, math.nan]), "range")):
        (problem,) = find_problems(hyperparams=Hyperparams(gamma=array))
        assert problem.kind == kind


def test_traced_values_pass_and_their_concrete_neighbors_are_still_checked():
    def f(gamma, clip_eps):
        check_settings(Config(), NetworkConfig(), Hyperparams(gamma=gamma, clip_eps=clip_eps))
        return gamma

    assert jax.jit(f, static_argnums=1)(7.0, 0.2) == 7.0
    assert jax.vmap(lambda gamma: f(gamma, 0.2))(jnp.array([7.0, 8.0])).tolist() == [7.0, 8.0]
    check_settings(hyperparams=Hyperparams(gamma=jax.ShapeDtypeStruct((), jnp.float32)))
    with pytest.raises(ConfigError, match="clip_eps"):
        jax.jit(f, static_argnums=1)(0.9, -1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("mpl", ' = "mpl": no such choice; did you mean "mlp"? (one of mlp, cnn)'),
        ("zzz", ' = "zzz": no such choice (one of mlp, cnn)'),
    ],
)
def test_an_unknown_choice_names_the_nearest_if_there_is_one_and_lists_all(value, text):
    assert unknown_choice("network.kind", value, ("mlp", "cnn")).text == text
