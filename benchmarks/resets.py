"""Time of a reset relative to that of a step, and memory of an environment, for some environments of the suites.

    python benchmarks/resets.py [ID ...]

Resets and steps of N environments alternate, so that a busy machine slows both, and the ratio is the median of those of
the rounds. Steps begin in the first states, with random allowed actions. The times are those of one environment in a
call of N. A reset mode that resets all environments at every step pays (ratio + 1) steps for one.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from purejaxppo.envs import make
from purejaxppo.envs.facts import facts_of
from purejaxppo.envs.masks import action_mask, sample_allowed
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.registry import installed

NUM_ENVS = 256
ROUNDS = 20
IDS = (
    "gymnax/CartPole-v1",
    "gymnax/Breakout-MinAtar",
    "pgx/minatar-breakout",
    "pgx/tic_tac_toe",
    "xland/MiniGrid-DoorKey-5x5",
    "navix/Navix-DoorKey-5x5-v0",
    "jumanji/Snake-v1",
    "jumanji/Maze-v0",
    "craftax/Craftax-Classic-Symbolic-v1",
    "brax/inverted_pendulum",
    "playground/CartpoleBalance",
)


class Cost(NamedTuple):
    """What resets and steps of an environment cost."""

    reset: float  # microseconds of one environment
    step: float
    ratio: float  # median over the rounds


def measure(env: Env, num_envs: int = NUM_ENVS, rounds: int = ROUNDS) -> Cost:
    """Time resets and steps in turn.

    Args:
        env: the environment.
        num_envs: N.
        rounds: pairs of timings, after one that compiles.
    """
    key_reset, key_action, key_step = jax.random.split(jax.random.key(0), (3, num_envs))
    reset = jax.jit(jax.vmap(env.reset))
    state, obs = reset(key_reset)
    draw = jax.jit(jax.vmap(lambda obs, key: sample_allowed(env.action_space, action_mask(obs), key)))
    action = draw(obs, key_action)
    step = jax.jit(jax.vmap(env.step))
    calls = (lambda: reset(key_reset), lambda: step(key_step, state, action))
    with jax.debug_key_reuse(False):  # the same work is timed again and again
        pairs = [tuple(_seconds(call) for call in calls) for _ in range(rounds + 1)][1:]
    times = [1e6 * statistics.median(column) / num_envs for column in zip(*pairs, strict=True)]
    return Cost(times[0], times[1], statistics.median(first / second for first, second in pairs))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def row(name: str) -> str:
    """Return the row of the table for an environment."""
    env = make(name)
    assert isinstance(env, Env), f"{name} resets itself"
    cost, facts = measure(env), facts_of(env)
    cells = [name, env.resets or "fresh", f"{cost.reset:.2f}", f"{cost.step:.2f}", f"{cost.ratio:.1f}"]
    return f"| {' | '.join([*cells, str(facts.state_bytes), str(facts.observation_bytes)])} |"


def main(names: list[str]) -> None:
    """Print the table."""
    print("| environment | reset mode | reset, µs | step, µs | ratio | state, bytes | observation, bytes |")
    print("|---|---|---|---|---|---|---|")
    for name in names or [name for name in IDS if installed(name.partition("/")[0])]:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
