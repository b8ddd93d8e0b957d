"""Check environment parameters that are axes of a sweep: they are data of one program, which all values share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from purejaxppo._util.aliases import Value
from purejaxppo.config.errors import Problem
from purejaxppo.config.schema import Run
from purejaxppo.envs.registry import make
from purejaxppo.sweeps.spec import TRACED, Sweep


def level_problems(sweep: Sweep, settings: Sequence[int], run: Run) -> list[Problem]:
    """Return a problem for each parameter that the environment cannot trace, or with a value that it refuses.

    Args:
        sweep: the specification.
        settings: of one program.
        run: the settings of the first one.

    Returns:
        The problems; none if the environment cannot be made anyway, which `build` reports.
    """
    names = {key.partition(".")[2] for key in sweep.traced}
    rest = {name: value for name, value in run.env_params.items() if name not in (*names, TRACED)}
    if not names or _error(run.env, rest):
        return []
    searched = {axis.key for axis in sweep.axes if not axis.values}
    found = (
        _level_problem(run.env, rest, key, values_of(sweep, settings, key), key in searched) for key in sweep.traced
    )
    return [problem for problem in found if problem]


def _level_problem(
    env_id: str, rest: Mapping[str, Value], key: str, values: Sequence[Value], is_searched: bool
) -> Problem | None:
    """Return the problem of one parameter; valid values are an interval, so that its ends are tried.

    Args:
        env_id: of the environment.
        rest: its other parameters.
        key: the dotted key of the parameter.
        values: that it takes, ascending.
        is_searched: a search may choose any number between the first and the last value.
    """
    name = key.partition(".")[2]
    if not values:
        return None
    traced = {**rest, TRACED: [name]}
    if _error(env_id, traced):
        error = _error(env_id, {**rest, name: values[0]})
        if error:
            return Problem(f"axes.{key}", f" = {values[0]}: {error}", "environment")
        text = f": {env_id} needs a program for each value of it; it belongs in [structure]"
        return Problem(f"axes.{key}", text, "conflict")
    whole = jnp.issubdtype(make(env_id, **traced).params[name].dtype, jnp.integer)
    if whole and is_searched:
        text = f": {env_id} takes whole numbers, and a search chooses any number of an interval; give a list of values"
        return Problem(f"axes.{key}", text, "environment")
    parts = [value for value in values if whole and not float(value).is_integer()]
    for value in (*parts[:1], values[0], values[-1]):
        error = _error(env_id, {**traced, name: value})
        if error:
            return Problem(f"axes.{key}", f" = {value}: {error}", "environment")
    return None


def _error(env_id: str, env_params: Mapping[str, Value]) -> str:
    """Return why an environment cannot be made; "" if it can."""
    try:
        make(env_id, **env_params)
    except (ValueError, TypeError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


def values_of(sweep: Sweep, settings: Sequence[int], key: str) -> list[Value]:
    """Return the values of a parameter in some settings, or those that a search may choose, ascending."""
    own = {sweep.settings[setting][key] for setting in settings if key in sweep.settings[setting]}
    axes = [axis for axis in sweep.axes if axis.key == key]
    return sorted(own.union(*(axis.values or (axis.low, axis.high) for axis in axes)))
