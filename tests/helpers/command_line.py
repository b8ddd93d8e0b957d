"""Run the command line in tests: as a process, or in this process."""

import os
import subprocess
import sys
import time
from pathlib import Path

from purejaxppo.cli.main import dispatch
from purejaxppo.config.errors import ConfigError

ROOT = Path(__file__).parents[2]

RUN_FILES = {"checkpoints", "config.toml", "metrics.csv", "curve.png", "policy.safetensors", "summary.toml"}

TINY = """
env = "CartPole-v1"
seed = 3
[config]
num_envs = 8
num_steps = 16
num_epochs = 2
num_minibatches = 2
total_timesteps = 1_000
[network]
hidden_sizes = [8]
"""


def start(args, env=None, script=("-m", "purejaxppo"), **kwargs) -> subprocess.Popen:
    """Start the command line as a separate process."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | (env or {})
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | kwargs
    return subprocess.Popen([sys.executable, *script, *map(str, args)], env=environ, **kwargs)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for a process -> (exit code, standard output, standard error)."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def start_fake(cost, *args) -> subprocess.Popen:
    """Start the command line with the fake algorithm of `fakes`, one update of which takes `cost` operations."""
    return start([cost, *args], script=(str(ROOT / "tests" / "helpers" / "fakes.py"),))


def wait_for(condition) -> None:
    """Wait until a condition holds; fail after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def problems_of(*args) -> set[tuple[str, str]]:
    """Run a command with user errors in this process -> (key, kind) of each."""
    try:
        dispatch([str(arg) for arg in args])
    except ConfigError as error:
        found = [(problem.key, problem.kind) for problem in error.problems]
        assert len(found) == len(set(found)), found
        return set(found)
    raise AssertionError("no problem was found")
