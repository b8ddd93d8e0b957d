"""Measure where training runs side by side pays: vmapped against one after the other, by environments and network.

    python benchmarks/sweep_crossover.py --seconds 4 --out crossover.md

Each point compares one run alone with several runs side by side on one device, in steps per second of processor time,
which other work on the machine hardly changes. The two are measured in alternation, and the medians are reported.
Compilation does not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.devices.cpu import count_cores, prepare_cpu
from purejaxppo.sweeps.engine import Engine, stack_hyperparams
from purejaxppo.training.runs import build

HEADER = ("hidden", "num_envs", "steps/s alone", "steps/s side by side", "ratio")
STEPS = 32_768  # least environment steps of a call


def timer(engine: Engine, timesteps: int) -> Callable[[], float]:
    """Return a function that measures environment steps per second of processor time; it is compiled already."""
    h = stack_hyperparams([Hyperparams()] * engine.width)
    states = engine.start(range(engine.width), h)

    def measure() -> float:
        nonlocal states
        began = time.process_time()
        states, _ = engine.advance(states, h, engine.segment)
        jax.block_until_ready(states)
        return engine.width * engine.segment * timesteps / (time.process_time() - began)

    measure()
    return measure


def point(hidden: tuple[int, ...], num_envs: int, lanes: int, seconds: float) -> dict[str, str]:
    """Return one line of the table."""
    config = Config(num_envs=num_envs, num_steps=128, total_timesteps=2**30)
    algo = build(Run(env="CartPole-v1", config=config, network=NetworkConfig(hidden_sizes=hidden)))
    per_update = config.timesteps_per_update
    engines = [Engine(algo, n, 1, max(1, STEPS // (per_update * n))) for n in (1, lanes)]
    timers = [timer(engine, per_update) for engine in engines]
    rates: list[list[float]] = []
    began = time.monotonic()
    while len(rates) < 3 or time.monotonic() - began < seconds:
        rates.append([measure() for measure in timers])
    found = np.array(rates)
    alone, together = np.median(found, axis=0)
    ratio = np.median(found[:, 1] / found[:, 0])
    values = ("x".join(map(str, hidden)), str(num_envs), f"{alone:.0f}", f"{together:.0f}", f"{ratio:.2f}")
    return dict(zip(HEADER, values, strict=True))


def main() -> None:
    """Measure and print every point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each point")
    parser.add_argument("--lanes", type=int, default=8, help="runs side by side")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256], help="width of the two layers")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    prepare_cpu(128)
    lines = [HEADER, ["---"] * len(HEADER)]
    print(f"{args.lanes} runs side by side, {count_cores()} cores")
    for width in args.hidden:
        for num_envs in args.num_envs:
            row = point((width, width), num_envs, args.lanes, args.seconds)
            print(row, flush=True)
            lines.append(list(row.values()))
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
