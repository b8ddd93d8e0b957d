"""Recorded facts about environments."""

import subprocess
import sys
from pathlib import Path

from purejaxppo.envs.facts import recorded, recorded_ids
from purejaxppo.envs.packages import PACKAGES


def test_each_environment_is_recorded_once() -> None:
    rows = recorded()
    lines = (Path(__file__).parents[2] / "purejaxppo" / "envs" / "facts.csv").read_text().splitlines()
    assert len(rows) == len(lines) - 1
    assert all(name == f"{row.suite}/{row.id}" for name, row in rows.items())


def test_ids_need_no_package() -> None:
    code = (
        "import sys; from purejaxppo.envs.suites import pgx, xland\n"
        "assert 'tic_tac_toe' in pgx.ids() and 'MiniGrid-DoorKey-5x5' in xland.ids()\n"
        "assert not {'pgx', 'xminigrid'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_only_suites_are_recorded() -> None:
    assert {row.suite for row in recorded().values()} <= set(PACKAGES)
    assert recorded_ids("no such suite") == ()
