"""Every suite keeps its `truncation_gap`: truncations of a column are at least so many steps apart."""

from typing import Any

import numpy as np
import pytest
from suites import needs, play

from purejaxppo.envs.protocol import NEVER
from purejaxppo.envs.registry import make

# A short clock in the suite's own words: environment, name of the parameter, steps.
CLOCKS = [
    ("examples/King-v1", "max_steps", 5),
    ("brax/inverted_pendulum", "time_limit", 3),
    ("craftax/Craftax-Classic-Symbolic-v1", "max_timesteps", 3),
    ("navix/Navix-DoorKey-5x5-v0", "max_steps", 5),
    ("pgx/minatar-breakout", "time_limit", 4),
    ("playground/CartpoleBalance", "episode_length", 3),
    ("xland/MiniGrid-DoorKey-5x5", "max_steps", 5),
]
ENDLESS = [
    ("examples/Nim-v1", {}),
    ("pgx/minatar-freeway", {"time_limit": 0}),
    ("pgx/tic_tac_toe", {}),
]


def cases(rows: list[tuple]) -> list[Any]:
    """Return the rows as parameters; those of this package are slow, because it is always installed."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(*row, id=row[0], marks=marks[row[0].startswith("examples/")]) for row in rows]


def truncations(name: str, num_steps: int, **env_params: Any) -> tuple[int, np.ndarray]:
    """Return the gap that an environment states, and where played episodes are truncated, bool [T, N]."""
    suite = name.split("/")[0]
    if suite != "examples":
        needs(suite)
    env = make(name, **env_params)
    ts = play(env, num_steps, 4).ts
    return env.truncation_gap, ts.truncated & ~ts.terminated


@pytest.mark.parametrize(("name", "parameter", "limit"), cases(CLOCKS))
def test_truncations_are_as_far_apart_as_the_suite_says(name: str, parameter: str, limit: int) -> None:
    gap, cut = truncations(name, 4 * limit, **{parameter: limit})
    assert gap == limit
    assert max(cut.sum(0)) >= 2
    for column in cut.T:
        assert (np.diff(np.flatnonzero(column), prepend=-1) >= gap).all()


@pytest.mark.parametrize(("name", "env_params"), cases(ENDLESS))
def test_what_is_never_truncated_is_not(name: str, env_params: dict[str, Any]) -> None:
    gap, cut = truncations(name, 40, **env_params)
    assert gap == NEVER
    assert not cut.any()
