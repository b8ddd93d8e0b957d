"""Record the facts about environments in purejaxppo/envs/facts.csv: `python tests/envs/suites/record.py [SUITE ...]`.

Makes every environment of the suites (by default of all) without computing a step, which takes from one second to a
minute each. An environment that cannot be made here keeps its row.
"""

import csv
import sys
from typing import Any

from purejaxppo.envs import make
from purejaxppo.envs.errors import SUITES
from purejaxppo.envs.facts import FILE, Facts, all_rows, facts_of, holds, recorded
from purejaxppo.envs.registry import available, installed
from purejaxppo.envs.wrappers import episodes


def clock(facts: Facts, suite: str, name: str, limits: list[int]) -> int | None:
    """Return the default clock of an environment; `limits` are those of the wrapper `time_limit` that it used."""
    if limits:
        return limits[-1]
    if suite in ("gymnax", "examples"):
        return facts.time_limit
    if suite == "craftax":
        return 10_000 if "Classic" in name else 100_000
    if suite == "xland":
        return int(_suite("xminigrid").make(name)[1].max_steps)
    if suite == "navix":
        return int(_suite("navix").make(name).max_steps)
    if suite == "jumanji" and name.startswith("SearchAndRescue"):
        return 400
    if suite == "jaxmarl":
        return 26 if name.startswith("MPE") else 101 if "SMAX" in name else 400
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
    facts = facts_of(env)
    return facts._replace(suite=row.suite, id=row.id, time_limit=clock(facts, row.suite, row.id, limits), note=row.note)


class _NoRulesets:
    """Replaces a benchmark of XLand, which needs a download, by the ruleset without a goal."""

    def sample_ruleset(self, key: Any) -> Any:
        return _suite("xminigrid").make("XLand-MiniGrid-R1-9x9")[1].ruleset


# The first version of a suite's package whose facts, where they differ from those of older ones, are separate rows.
SINCE = {"navix": "4"}


def write(rows: list[Facts]) -> None:
    """Write the file: `rows`, which hold for the installed versions, and those of other versions as they were."""
    written = {(row.suite, row.id, since): row for row, since in all_rows()}
    for row in rows:
        newer = SINCE.get(row.suite, "")
        since = newer if holds(row.suite, newer) else ""
        if written.get((row.suite, row.id, "")) != row:
            written[row.suite, row.id, since] = row
        elif since:  # as with the older version, so that it needs no row of its own
            written.pop((row.suite, row.id, since), None)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*Facts._fields, "since"))
        for (_, _, since), row in sorted(written.items(), key=lambda item: list(SUITES).index(item[0][0])):
            writer.writerow(["" if x is None else x for x in (*row, since)])


def main(suites: list[str]) -> None:
    """Record the suites."""
    known = recorded()
    for suite, ids in available().items():
        for name in ids:
            known.setdefault(f"{suite}/{name}", Facts(suite, name))
    rows = sorted(known.values(), key=lambda row: list(SUITES).index(row.suite))
    for i, row in enumerate(rows):
        if row.suite not in (suites or SUITES) or not installed(row.suite):
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
