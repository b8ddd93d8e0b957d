"""Parameters are replaced by name; unknown names, wrong types and values out of range are refused."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.envs.parameters import check_values, replace_params


@dataclass(frozen=True)
class Params:
    """One parameter of each kind."""

    steps: int = 500
    gravity: float = 9.8
    windy: bool = False
    torques: Any = field(default_factory=lambda: jnp.array([-1.0, 0.0, 1.0]))
    name: str = "hill"


RANGES = {"steps": (1, 2**31 - 1), "gravity": (0, 100)}


def replace(**given: Any) -> Params:
    return replace_params("Hill-v0", Params(), given, ("size",), RANGES)


def test_values_take_the_type_of_their_default() -> None:
    new = replace(steps=np.int64(3), gravity=2, windy=True, torques=[0, 0, 2], name="valley", size=7)
    assert (new.steps, new.gravity, new.windy, new.name) == (3, 2.0, True, "valley")
    assert [type(x) for x in new.__dict__.values()][:3] == [int, float, bool]
    np.testing.assert_array_equal(new.torques, np.array([0, 0, 2], np.float32))
    assert replace(steps=5.0).steps == 5
    assert replace().gravity == 9.8


def test_arrays_of_jax_are_not_converted() -> None:
    gravity = jnp.float32(-3.0)
    assert replace(gravity=gravity).gravity is gravity
    np.testing.assert_array_equal(jax.vmap(lambda g: replace(gravity=g).gravity)(jnp.arange(3.0)), [0, 1, 2])


def test_every_unknown_name_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Hill-v0 has no parameter 'gravty' \(nearest: gravity") as error:
        replace(gravty=1, step=3)
    assert "'step' (nearest: steps" in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 3.5}, "Hill-v0: steps must be a whole number, like 500, not 3.5"),
        ({"steps": True}, "must be of type int, like 500, not True"),
        ({"steps": 0}, r"must be in \[1, 2147483647\], not 0"),
        ({"steps": 2**31}, r"must be in \[1, 2147483647\], not 2147483648"),
        ({"steps": 10**5000}, "not an integer beyond 1e30"),
        ({"steps": float("inf")}, "must be a whole number, like 500, not inf"),
        ({"gravity": float("nan")}, "must be of type float, like 9.8, not nan"),
        ({"gravity": float("inf")}, r"must be in \[0, 100\], not inf"),
        ({"gravity": "heavy"}, "must be of type float, like 9.8, not 'heavy'"),
        ({"windy": 1}, "must be of type bool, like False, not 1"),
        ({"torques": [0, 1]}, r"must be finite numbers of shape \(3,\)"),
        ({"torques": [0, 1, float("inf")]}, "must be finite numbers"),
        ({"torques": "none"}, "must be finite numbers"),
    ],
)
def test_a_wrong_type_or_range_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(**given)


@pytest.mark.parametrize(("default", "value"), [(1, 2**31), (1, -(2**31) - 1), (1.0, 1e39), (1.0, float("inf"))])
def test_without_a_range_a_number_fits_into_32_bits(default: Any, value: Any) -> None:
    with pytest.raises(ValueError, match="x must be in"):
        check_values("Hill-v0", {"x": default}, {"x": value})
