"""Measure where training runs side by side pays, by environments, network and epochs.

    python benchmarks/sweep_crossover.py --seconds 4 --out crossover.md
    python benchmarks/sweep_crossover.py --wall --epochs 1 4 --seconds 20

The first form compares one run alone with several runs side by side on one device, in environment steps per second of
processor time, which other work on the machine hardly changes. `--wall` needs an idle machine: it compares the same
runs trained in three ways, in steps per second of wall time: one after the other on one device, as `purejaxppo train`
trains them; one at a time on each device; and side by side on each device. The last two are those that a sweep chooses
from.

The ways are measured in alternation, and the medians are reported, in brackets with the lowest and the highest value.
Compilation does not count. Each point is a process, with the flags of XLA that `purejaxppo` chooses for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from purejaxppo.config.schema import Config, Hyperparams, NetworkConfig, Run
from purejaxppo.devices.cpu import count_cores, prepare_cpu
from purejaxppo.sweeps.engine import Engine, stack_hyperparams
from purejaxppo.training.loop import init_state, iterate
from purejaxppo.training.runs import build
from purejaxppo.types import Algorithm

SETTINGS = ("layers", "environments", "epochs")
ALONE, SERIAL, DEVICES, TOGETHER = "alone", "one after the other", "one per device", "side by side"
STEPS = 32_768  # least environment steps of one run in a call
LEAST_ROUNDS = 3


class Way(NamedTuple):
    """A way to train some runs a little further."""

    name: str
    advance: Callable[[], None]  # compiled; returns when everything is computed
    steps: int  # environment steps of a call


class Point(NamedTuple):
    """Settings of a line of the table."""

    width: int  # of the two layers
    num_envs: int
    num_epochs: int

    @property
    def config(self) -> Config:
        """Return the settings of the runs, which do not end."""
        return Config(num_envs=self.num_envs, num_steps=128, num_epochs=self.num_epochs, total_timesteps=2**30)

    def build(self) -> Algorithm:
        """Return the algorithm."""
        network = NetworkConfig(hidden_sizes=(self.width, self.width))
        return build(Run(env="CartPole-v1", config=self.config, network=network))


def engine_way(name: str, engine: Engine, calls: int = 1) -> Way:
    """Return a way in which an engine trains `calls` times as many runs as a call takes."""
    h = stack_hyperparams([Hyperparams()] * engine.width)
    states = [engine.start(range(i * engine.width, (i + 1) * engine.width), h) for i in range(calls)]

    def advance() -> None:
        for i, state in enumerate(states):
            states[i], _ = engine.advance(state, h, engine.segment)
        jax.block_until_ready(states)

    advance()
    return Way(name, advance, calls * engine.width * engine.segment * engine.algo.config.timesteps_per_update)


def serial_way(algo: Algorithm, num_runs: int, segment: int) -> Way:
    """Return the way of `purejaxppo train`: each run alone, on one device."""
    h = Hyperparams()
    states = [init_state(algo, jax.random.key(seed), h) for seed in range(num_runs)]

    def advance() -> None:
        for i, state in enumerate(states):
            states[i], _ = next(iterate(algo, state, h, num_updates=segment, chunk=segment))
        jax.block_until_ready(states)

    advance()
    return Way(SERIAL, advance, num_runs * segment * algo.config.timesteps_per_update)


def processor_ways(algo: Algorithm, lanes: int, steps: int) -> list[Way]:
    """Return one run alone, and `lanes` side by side, on one device."""
    per_update = algo.config.timesteps_per_update
    names = {1: ALONE, lanes: TOGETHER}
    return [engine_way(names[n], Engine(algo, n, 1, max(1, steps // (per_update * n)))) for n in (1, lanes)]


def wall_ways(algo: Algorithm, lanes: int, steps: int) -> list[Way]:
    """Return the three ways to train `lanes` runs per device."""
    num_devices, segment = jax.local_device_count(), max(1, steps // algo.config.timesteps_per_update)
    return [
        serial_way(algo, lanes * num_devices, segment),
        engine_way(DEVICES, Engine(algo, 1, num_devices, segment), lanes),
        engine_way(TOGETHER, Engine(algo, lanes, num_devices, segment)),
    ]


def speeds(ways: Sequence[Way], clock: Callable[[], float], seconds: float) -> np.ndarray:
    """Return environment steps per second of the clock, [rounds, ways]; every other round is in reverse order."""
    rounds: list[np.ndarray] = []
    began = time.monotonic()
    while len(rounds) < LEAST_ROUNDS or time.monotonic() - began < seconds:
        found = np.zeros(len(ways))
        for i in range(len(ways))[:: -1 if len(rounds) % 2 else 1]:
            started = clock()
            ways[i].advance()
            found[i] = ways[i].steps / (clock() - started)
        rounds.append(found)
    return np.array(rounds)


def summary(names: Sequence[str], found: np.ndarray) -> dict[str, str]:
    """Return the columns of the table for speeds [rounds, ways]: those of the ways, and the ratios to the first one."""
    cells = {f"{name}, steps/s": _spread(found[:, i], ",.0f") for i, name in enumerate(names)}
    ratios = {
        f"{name} / {names[0]}": _spread(found[:, i] / found[:, 0], ".2f") for i, name in enumerate(names) if i > 0
    }
    return cells | ratios


def _spread(values: np.ndarray, shown: str) -> str:
    """Write the median with the range."""
    return f"{np.median(values):{shown}} ({values.min():{shown}} to {values.max():{shown}})"


def measure(point: Point, lanes: int, seconds: float, wall: bool, steps: int = STEPS) -> dict[str, str]:
    """Return a line of the table by column.

    Args:
        point: its settings.
        lanes: runs side by side on each device.
        seconds: of the measurement.
        wall: compare in wall time, with all devices; otherwise in processor time, with one.
        steps: least environment steps of one run in a call.
    """
    ways = (wall_ways if wall else processor_ways)(point.build(), lanes, steps)
    found = speeds(ways, time.monotonic if wall else time.process_time, seconds)
    settings = (f"2 x {point.width}", str(point.num_envs), str(point.num_epochs))
    return dict(zip(SETTINGS, settings, strict=True)) | summary([way.name for way in ways], found)


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return rows with the same columns as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wall", action="store_true", help="wall time, with all devices")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each point")
    parser.add_argument("--lanes", type=int, default=8, help="runs side by side on each device")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[4, 16, 64, 256])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 256], help="width of the two layers")
    parser.add_argument("--epochs", type=int, nargs="+", default=[4])
    parser.add_argument("--steps", type=int, default=STEPS, help="least environment steps of one run in a call")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--here", type=json.loads, help=argparse.SUPPRESS)  # measure this point in this process
    return parser.parse_args()


def main() -> None:
    """Measure and print every point."""
    args = _arguments()
    if args.here:
        point = Point(*args.here)
        prepare_cpu(point.config.timesteps_per_update // point.config.num_minibatches)
        print(json.dumps(measure(point, args.lanes, args.seconds, args.wall, args.steps)))
        return
    print(f"{args.lanes} runs side by side on each device, {count_cores()} cores, jax {jax.__version__}", flush=True)
    rows = []
    for point in itertools.product(args.hidden, args.num_envs, args.epochs):
        words = [sys.executable, __file__, *sys.argv[1:], "--here", json.dumps(point)]
        rows.append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(rows[-1], flush=True)
    print(table(rows))
    if args.out:
        args.out.write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
