"""A picture of one episode that a policy plays."""

from pathlib import Path

import jax
import numpy as np

from purejaxppo.envs.rendering import Renderer, states_of
from purejaxppo.training.evaluation import record
from purejaxppo.training.policy_file import Policy
from purejaxppo.types import Algorithm

EPISODE_FILE = "episode"  # in the run folder; the suffix is that of the renderer
RENDER_KEY = 0x91C7  # folded into the key of the seed


def render_episode(
    algo: Algorithm, policy: Policy, renderer: Renderer, path: Path, seed: int, max_steps: int, greedy: bool
) -> tuple[int, float]:
    """Play one episode and write its pictures, the state after the last action included.

    Args:
        algo: the algorithm, of an Env.
        policy: its policy.
        renderer: of the environment.
        path: the file, replaced if there is one.
        seed: of the episode.
        max_steps: the episode is cut after so many steps.
        greedy: take the mode of the policy instead of a sample.

    Returns:
        Length and return of the episode.
    """
    key = jax.random.fold_in(jax.random.key(seed), RENDER_KEY)
    played = record(algo, policy, key, max_steps + 1, greedy)
    done = np.flatnonzero(played.done)
    steps = min(int(done[0]) + 1 if len(done) else max_steps, max_steps)
    total = float(np.asarray(played.reward, np.float64)[:steps].sum())
    states = jax.tree.map(lambda x: x[: steps + 1], played.env_state)
    renderer.save(states_of(states, renderer.state_type), path)
    return steps, total
