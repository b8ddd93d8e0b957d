"""The script for SLURM begins a run once, continues it afterwards, and queues the job again after a notice."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "slurm.sh"


@pytest.mark.parametrize("code", [0, 1, 128 + signal.SIGTERM, 128 + signal.SIGUSR1])
@pytest.mark.parametrize("begun", [False, True])
def test_the_script(tmp_path, code, begun):
    calls = tmp_path / "calls"
    for name, end in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n{end}\n')
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "my run"
    folder.mkdir()
    if begun:
        (folder / "config.toml").touch()
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17", "RUN_DIR": str(folder)}
    result = subprocess.run(["bash", str(SCRIPT)], env=env, check=False)
    requeued = code == 138
    first = f"srun purejaxppo resume {folder}" if begun else f"srun purejaxppo train CartPole-v1 --out {folder}"
    assert calls.read_text().splitlines() == [first, *(["scontrol requeue 17"] if requeued else [])]
    assert result.returncode == (0 if requeued else code)
