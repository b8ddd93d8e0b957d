"""Compare the forecast of the memory of runs side by side with the peak of the process. Linux only.

    python benchmarks/sweep_memory.py --runs 16 64 --num-envs 64

Each number of runs is a process. It compiles everything, gives unused memory back, and then starts the runs and trains
each for one update: the peak of the resident memory above the level before that is compared with the forecast.
"""

import argparse
import ctypes
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.sweeps.engine import Engine, stack_hyperparams
from purejaxppo.sweeps.execution import forecast
from purejaxppo.training.runs import build


def resident(field: str) -> int:
    """Return a line of /proc/self/status in bytes: VmRSS is the resident memory, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def measure(num_runs: int, num_envs: int) -> dict[str, float]:
    """Return the forecast and the peak of `num_runs` runs side by side on one device, in bytes."""
    config = Config(num_envs=num_envs, num_steps=128, total_timesteps=2**30)
    algo = build(Run(env="CartPole-v1", config=config, network=NetworkConfig(hidden_sizes=(64, 64))))
    engine = Engine(algo, num_runs, 1, 1)
    expected = forecast(engine) * num_runs
    h, seeds = stack_hyperparams([Hyperparams()] * num_runs), range(num_runs)
    compiled = engine.compiled()
    engine.start(seeds, h)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    states = engine.start(seeds, h)
    result = compiled(states, h, jnp.int32(1))
    jax.block_until_ready(result)
    return {"runs": num_runs, "forecast": expected, "peak": resident("VmHWM") - before}


def main() -> None:
    """Measure each number of runs in a process, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--here", action="store_true", help="measure in this process")
    args = parser.parse_args()
    for runs in args.runs:
        if args.here:
            print(json.dumps(measure(runs, args.num_envs)))
            continue
        words = [sys.executable, __file__, "--here", "--runs", str(runs), "--num-envs", str(args.num_envs)]
        found = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        ratio = found["forecast"] / found["peak"]
        print(
            f"{runs} runs: forecast {found['forecast'] / 1e6:.0f} MB, peak {found['peak'] / 1e6:.0f} MB, "
            f"forecast / peak {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
