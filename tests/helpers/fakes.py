"""A fake Algorithm that compiles quickly, for tests of the code around it.

As a program it is the command line with that algorithm: python fakes.py COST train ..., where COST is the work of one
update; with a negative COST `build` waits forever.
"""

import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.cli import main, resume_command, session, train_command
from purejaxppo.envs.spaces import Discrete, Space
from purejaxppo.functional.running_stats import init_moments
from purejaxppo.metrics import Metrics
from purejaxppo.types import Algorithm

# What evaluating the fake gives, which cannot act.
FIGURES = dict.fromkeys(("mean", "std", "min", "median", "max", "mean_length"), 1.0) | {
    "episodes": 128,
    "unfinished": 0,
}

FAULTS = (
    "masked_states",
    "quarantined",
    "nonfinite_observations",
    "nonfinite_rewards",
    "lost_final_observations",
    "nonfinite_parameters",
    "stalled",
    "skipped_steps",
)


class FakeState(NamedTuple):
    params: jax.Array
    obs_moments: tuple
    num_updates: jax.Array
    key: jax.Array


class FakeEnv(NamedTuple):
    """An environment with the fields that `train` reads."""

    name: str = "fake"
    observation_space: Space = Discrete(2)
    action_space: Space = Discrete(2)


def fake_algorithm(config, env=None, cost: int = 0, bad_update: int = -1, bad_value: float = float("nan")):
    """Make an algorithm whose parameters count the updates; its return is ten times that count.

    The loss is not finite in update `bad_update`.
    """

    def init(key, hyperparams):
        return FakeState(jnp.zeros(3), init_moments(jnp.zeros(2)), jnp.int32(0), key)

    def update(state, hyperparams):
        work = jax.lax.fori_loop(0, cost, lambda i, x: jnp.sin(x + 1.0), jnp.zeros(64))
        done = state.num_updates + 1
        count = done.astype(jnp.float32) + 0.0 * work.sum()
        values = dict.fromkeys(Metrics._fields, count) | {"diagnostics": (), "extra": ()}
        loss = jnp.where(done == bad_update, bad_value, count)
        values |= {"total_loss": loss, "episode_return_mean": 10.0 * count, "num_episodes": jnp.float32(1.0)}
        values |= dict.fromkeys(FAULTS, jnp.float32(0.0)) | dict.fromkeys(
            ("first_fault_step", "first_fault_env"), jnp.float32(-1.0)
        )
        return state._replace(params=state.params + 1.0, num_updates=done), Metrics(**values)

    return Algorithm(init, update, env or FakeEnv(), "fake", config, None)


if __name__ == "__main__":
    cost = int(float(sys.argv[1]))

    def build(run, problems=(), source=""):
        print("building", flush=True)
        while cost < 0:
            time.sleep(1.0)
        return fake_algorithm(run.config, cost=cost)

    train_command.build = resume_command.build = build
    session.evaluate_policy = lambda *_: FIGURES
    sys.exit(main.main(sys.argv[2:]))
