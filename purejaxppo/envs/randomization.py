"""Domain randomization: every episode has parameters that are drawn from intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Action, EnvState, Observation, PRNGKey, PyTree, Value
from purejaxppo._util.text import nearest
from purejaxppo.config.values import is_number
from purejaxppo.envs.families import at_params, parametrized
from purejaxppo.envs.protocol import Env, TimeStep

KEYS = ("low", "high", "scale")
SCALES = ("linear", "log")


class Interval(NamedTuple):
    """An interval that a parameter is drawn from: uniformly, or its logarithm is."""

    low: float  # an int draws whole numbers, both ends included
    high: float
    scale: str = "linear"


class DrawnState(NamedTuple):
    """The state of an environment with the parameters of the running episode."""

    drawn: PyTree  # by name
    state: EnvState


def is_interval(value: Value) -> bool:
    """Return whether a parameter is given as a table {low, high} instead of a value."""
    return isinstance(value, Mapping)


def read_interval(what: str, given: Mapping[str, Value]) -> Interval:
    """Return the interval of a table such as {low = 5.0, high = 15.0, scale = "log"}.

    Args:
        what: name of the parameter, for messages.
        given: the table.

    Raises:
        ValueError: a key is unknown or missing, or the ends are not two numbers in order.
    """
    for key in given:
        if key not in KEYS:
            raise ValueError(
                f"{what} has no key {key!r}; nearest: {nearest(key, KEYS, 1)[0]} (one of {', '.join(KEYS)})"
            )
    low, high = (given.get(key) for key in ("low", "high"))
    if not (is_number(low) and is_number(high) and math.isfinite(low + high) and low < high):
        raise ValueError(f"{what} needs two numbers, low below high, not {dict(given)}")
    scale = given.get("scale", "linear")
    if scale not in SCALES or (scale == "log" and low <= 0):
        raise ValueError(f'{what}: scale must be "linear", or "log" with low above 0, not {dict(given)}')
    return Interval(low, high, scale)


def randomized(make_env: Callable[[PyTree], Env], intervals: Mapping[str, Interval]) -> Env:
    """Return an environment that draws parameters at every reset and keeps them until the end of the episode.

    Tobin et al. (2017), "Domain randomization for transferring deep neural networks from simulation to the real
    world", arXiv:1703.06907.

    Args:
        make_env: (parameters by name) -> Env, a pure function of arrays; see `parametrized`.
        intervals: of the parameters, by name.

    Raises:
        ValueError: a space depends on a parameter; see `parametrized`.
    """
    family = parametrized(make_env, {name: interval.low for name, interval in intervals.items()})

    def reset(key: PRNGKey) -> tuple[DrawnState, Observation]:
        draw_key, reset_key = jax.random.split(key)
        drawn = draw(draw_key, intervals)
        state, obs = at_params(family, drawn).reset(reset_key)
        return DrawnState(drawn, state), obs

    def step(key: PRNGKey, state: DrawnState, action: Action) -> tuple[DrawnState, TimeStep]:
        after, timestep = at_params(family, state.drawn).step(key, state.state, action)
        return state._replace(state=after), timestep

    return family._replace(reset=reset, step=step, params=(), family=None, family_of=())


def draw(key: PRNGKey, intervals: Mapping[str, Interval]) -> dict[str, jax.Array]:
    """Return a value of every interval, [] each; float32, or int32 for an interval of whole numbers."""
    keys = jax.random.split(key, len(intervals))
    return {name: _draw(key, interval) for key, (name, interval) in zip(keys, intervals.items(), strict=True)}


def _draw(key: PRNGKey, interval: Interval) -> jax.Array:
    low, high, scale = interval
    whole = isinstance(low, int) and isinstance(high, int)
    if whole and scale == "linear":
        return jax.random.randint(key, (), low, high + 1, jnp.int32)
    ends = (math.log(low), math.log(high + whole)) if scale == "log" else (low, high)
    x = jax.random.uniform(key, (), jnp.float32, *ends)
    if scale == "linear":
        return x
    x = jnp.clip(jnp.exp(x), low, high + whole)
    return jnp.minimum(jnp.floor(x), high).astype(jnp.int32) if whole else x
