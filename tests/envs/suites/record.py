"""Record the facts about environments in purejaxppo/envs/facts.csv: `python tests/envs/suites/record.py [SUITE ...]`.

Makes every recorded environment of the suites (by default of all) without computing a step, which takes from one second
to a minute each. An environment that cannot be made here keeps its row.
"""

import csv
import sys
from functools import partial
from typing import Any

import jax

from purejaxppo.envs import make
from purejaxppo.envs.facts import FILE, Facts, recorded
from purejaxppo.envs.packages import PACKAGES
from purejaxppo.envs.protocol import VecEnv
from purejaxppo.envs.registry import installed
from purejaxppo.envs.spaces import Box, Discrete, MultiDiscrete
from purejaxppo.envs.wrappers import episodes


def in_words(space: Any) -> str:
    """Return a space in a few characters."""
    if isinstance(space, dict):
        return "{" + ", ".join(f"{name}: {in_words(child)}" for name, child in sorted(space.items())) + "}"
    if isinstance(space, tuple):
        return "(" + ", ".join(map(in_words, space)) + ")"
    if isinstance(space, Discrete):
        return f"Discrete({space.n})"
    if isinstance(space, MultiDiscrete):
        equal = len(set(space.nvec)) == 1 and len(space.nvec) > 3
        return f"MultiDiscrete({space.nvec[0]} x {len(space.nvec)})" if equal else f"MultiDiscrete{space.nvec}"
    assert isinstance(space, Box)
    kind = "pixels" if space.pixels else "symbols" if space.codes.all() and space.dtype.kind in "iu" else space.dtype
    return f"{kind}{list(space.shape)}"


def num_bytes(tree: Any) -> int:
    """Return the memory of a tree of shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def clock(suite: str, name: str, limits: list[int]) -> int | None:
    """Return the default clock of an environment; `limits` are those of the wrapper `time_limit` that it used."""
    if limits:
        return limits[-1]
    if suite == "craftax":
        return 10_000 if "Classic" in name else 100_000
    if suite == "xland":
        return int(_suite("xminigrid").make(name)[1].max_steps)
    if suite == "navix":
        return int(_suite("navix").make(name).max_steps)
    if suite == "jumanji" and name.startswith("SearchAndRescue"):
        return 400
    if suite == "jaxmarl":
        return 26 if name.startswith("MPE") else 100 if "SMAX" in name else 400
    return _suite("gymnasium").spec(name).max_episode_steps if suite == "gymnasium" else None


def _suite(module: str) -> Any:
    return sys.modules[module]


def measure(row: Facts) -> Facts:
    """Return the row with the facts of the environment."""
    limits: list[int] = []
    module = sys.modules.get(f"purejaxppo.envs.suites.{row.suite}")
    original = episodes.time_limit

    def noted(env: Any, num_steps: int) -> Any:
        limits.append(int(num_steps))
        return original(env, num_steps)

    params = {"benchmark": _NoRulesets()} if row.id.startswith("XLand-") else {}
    if module is not None and hasattr(module, "time_limit"):
        module.time_limit = noted
    try:
        env = make(f"{row.suite}/{row.id}", **params)
    finally:
        if module is not None and hasattr(module, "time_limit"):
            module.time_limit = original
    size = env.group_size if isinstance(env, VecEnv) else 1
    reset = partial(env.reset, num_envs=size) if isinstance(env, VecEnv) else env.reset
    state, obs = jax.eval_shape(reset, jax.random.key(0))
    spaces = in_words(env.observation_space), in_words(env.action_space)
    sizes = num_bytes(state) // size, num_bytes(obs) // size
    return Facts(row.suite, row.id, *spaces, clock(row.suite, row.id, limits), *sizes, row.note)


class _NoRulesets:
    """Replaces a benchmark of XLand, which needs a download, by the ruleset without a goal."""

    def sample_ruleset(self, key: Any) -> Any:
        return _suite("xminigrid").make("XLand-MiniGrid-R1-9x9")[1].ruleset


def write(rows: list[Facts]) -> None:
    """Write the file."""
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Facts._fields)
        writer.writerows(["" if x is None else x for x in row] for row in rows)


def main(suites: list[str]) -> None:
    """Record the suites."""
    rows = list(recorded().values())
    for i, row in enumerate(rows):
        if row.suite not in (suites or PACKAGES) or not installed(row.suite):
            continue
        if row.note.startswith("downloads"):
            continue
        make_first = f"purejaxppo.envs.suites.{row.suite}"
        __import__(make_first)
        try:
            rows[i] = measure(row)
            print(*rows[i], flush=True)
        except Exception as error:  # its row is kept
            print(row.suite, row.id, "cannot be made:", type(error).__name__, str(error)[:200], flush=True)
    write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
