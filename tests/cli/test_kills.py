"""SIGKILL at random instants of runs that save after every update: the finished run is the uninterrupted one."""

import random
import time
from pathlib import Path

import pytest
from command_line import ROOT, TINY, start, wait_for
from same_runs import VARIANTS, assert_same_run

from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training.checkpoint_folder import find_checkpoint, has_checkpoints

FAKE = (str(ROOT / "tests" / "helpers" / "fakes.py"), "2000")  # an update takes about a tenth of a save
REAL = ("-m", "purejaxppo")


def rows_of(folder: Path) -> int:
    """The whole rows of metrics.csv."""
    file = folder / "metrics.csv"
    return max(file.read_bytes().count(b"\n") - 1, 0) if file.exists() else 0


def kill_at_random(first, folder, num_kills, script, env, rng) -> int:
    """Start a run, kill it and resume it again and again, then let it finish -> how often it was killed.

    After each kill the newest checkpoint is complete, and at most one update older than the metrics.
    """
    command, kills = first, 0
    while True:
        process = start(command, env, script)
        command = ["resume", folder, "--checkpoint-every", 1]
        before = find_checkpoint(folder).folder.name if has_checkpoints(folder) else "0"
        if kills < num_kills:
            wait_for(lambda: rows_of(folder) > int(before) + 1 or process.poll() is not None)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.3))
            process.kill()
        out, err = process.communicate(timeout=300)
        if process.returncode == 0:
            return kills
        assert (process.returncode, kills < num_kills) == (-9, True), (out, err)
        kills += 1
        found = find_checkpoint(folder)
        assert not found.warnings
        assert 0 <= rows_of(folder) - int(found.folder.name) <= 1


def cached(tmp_path):
    return {"PUREJAXPPO_COMPILE_CACHE": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def survives(tmp_path, tiny, num_kills, num_updates, seed) -> int:
    """Kill runs of the fake, whose right metrics are known."""
    folder = tmp_path / f"run{seed}"
    first = ["train", tiny, "--out", folder, "--checkpoint-every", 1, "--total-timesteps", 128 * num_updates]
    kills = kill_at_random(first, folder, num_kills, FAKE, {}, random.Random(seed))
    assert read_csv(folder / "metrics.csv")["total_loss"].tolist() == list(range(1, num_updates + 1))
    assert int(find_checkpoint(folder).folder.name) == num_updates
    return kills


def test_a_killed_run_is_finished_without_a_gap_or_a_repeated_row(tmp_path, tiny):
    assert survives(tmp_path, tiny, num_kills=2, num_updates=60, seed=0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_hundred_kills(tmp_path, tiny, seed):
    """Twenty in each of five runs."""
    assert survives(tmp_path, tiny, num_kills=20, num_updates=1500, seed=seed) == 20


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_is_bitwise_the_uninterrupted_one(tmp_path, tiny, variant):
    tiny.write_text(TINY.replace("1_000", str(128 * 120)))
    # Two CPU devices for all variants, and no XLA flags of these tests.
    env = cached(tmp_path) | {"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": ""}
    options = ["--checkpoint-every", 1, *VARIANTS[variant]]
    whole = start(["train", tiny, "--out", tmp_path / "whole", *options], env)
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    first = ["train", tiny, "--out", tmp_path / "killed", *options]
    assert kill_at_random(first, tmp_path / "killed", 4, REAL, env, random.Random(variant)) > 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    policies = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("whole", "killed")]
    assert policies[0] == policies[1]
