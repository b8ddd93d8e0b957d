"""Facts about the environments of suites: ids, spaces, time limits, memory.

Making an environment takes from one second to a minute, so the facts are recorded in facts.csv and read from there,
also for suites that are not installed. `python tests/envs/suites/record.py` writes the file, and the
tests of each suite compare it with the suite.
"""

import csv
import functools
from pathlib import Path
from typing import NamedTuple

import jax

from purejaxppo._util.aliases import Shapes
from purejaxppo.envs.packages import has_version
from purejaxppo.envs.protocol import NEVER, Env, VecEnv
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete, Space, children

FILE = Path(__file__).with_name("facts.csv")


class Facts(NamedTuple):
    """What is known about an environment without making it."""

    suite: str
    id: str
    observation: str = ""  # the observation space in words; "" if it is not known
    action: str = ""  # the action space in words
    time_limit: int | None = None  # steps until the clock truncates an episode; None: no clock
    state_bytes: int = 0  # memory of one environment state
    observation_bytes: int = 0  # memory of one observation
    note: str = ""  # what the environment needs or where it differs, such as "downloads assets"


@functools.cache
def recorded() -> dict[str, Facts]:
    """Return the facts about every recorded environment, by "suite/Id", in the order of the suites.

    Facts that hold from some version of a suite on replace earlier ones if such a version is installed.
    """
    return {f"{row.suite}/{row.id}": row for row, since in all_rows() if holds(row.suite, since)}


def all_rows() -> list[tuple[Facts, str]]:
    """Return the rows of the file, each with the first version of the suite's package for which it holds, or ""."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return [(_parse(row), row["since"]) for row in csv.DictReader(file)]


def holds(suite: str, since: str) -> bool:
    """Return whether facts hold which were recorded with version `since` of a suite's package; "": with any."""
    return not since or has_version(suite, since)


def _parse(row: dict[str, str]) -> Facts:
    limit = int(row["time_limit"]) if row["time_limit"] else None
    sizes = int(row["state_bytes"] or 0), int(row["observation_bytes"] or 0)
    return Facts(row["suite"], row["id"], row["observation"], row["action"], limit, *sizes, row["note"])


def recorded_ids(suite: str) -> tuple[str, ...]:
    """Return the ids of a suite in the order of the suite."""
    return tuple(row.id for row in recorded().values() if row.suite == suite)


def facts_of(env: Env | VecEnv) -> Facts:
    """Return the facts about an environment, by tracing it. The time limit is known if `truncation_gap` promises one.

    Args:
        env: the environment. Of a VecEnv, memory is that of one column.
    """
    columns = env.group_size if isinstance(env, VecEnv) else 1
    key = jax.eval_shape(lambda: jax.random.key(0))
    if isinstance(env, VecEnv):
        state, obs = jax.eval_shape(lambda key: env.reset(key, columns), key)
    else:
        state, obs = jax.eval_shape(env.reset, key)
    limit = env.truncation_gap if 1 < env.truncation_gap < NEVER else None
    spaces = in_words(env.observation_space), in_words(env.action_space)
    suite, _, name = env.name.rpartition("/")
    return Facts(suite, name, *spaces, limit, _num_bytes(state) // columns, _num_bytes(obs) // columns)


def in_words(space: Space) -> str:
    """Return a space in a few characters, such as "float32[4]" or "Discrete(2)"."""
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, MultiDiscrete):
        sizes = set(space.nvec)
        equal = len(sizes) == 1 and len(space.nvec) > 3
        return f"MultiDiscrete({sizes.pop()} x {len(space.nvec)})" if equal else f"MultiDiscrete{space.nvec}"
    if isinstance(space, Box):
        symbols = space.codes.all() and space.dtype.kind in "iu"
        kind = "pixels" if space.pixels else "symbols" if symbols else space.dtype
        return f"{kind}{list(space.shape)}"
    entries = [(name, in_words(child)) for name, child in children(space)]
    if isinstance(space, dict):
        return "{" + ", ".join(f"{name}: {words}" for name, words in sorted(entries)) + "}"
    return "(" + ", ".join(words for _, words in entries) + ")"


def _num_bytes(tree: Shapes) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
