"""Small environments of this package, each for one feature that other suites lack, with the best known return.

| id | feature | best return |
|---|---|---|
| CartPolePositions-v1 | hidden state: no velocities are observed | 500, as in CartPole |
| Nim-v1 | invalid actions, masked | 1: every game can be won |
| King-v1 | MultiDiscrete actions | -3.75 on average: minus the number of king's moves to the target |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo._util.aliases import Observation, PRNGKey
from purejaxppo.envs.parameters import INT32_MAX, replace_params
from purejaxppo.envs.protocol import NEVER, Env, TimeStep
from purejaxppo.envs.rendering import Renderer
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.envs.suites import gymnax
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.envs.wrappers.observations import mask_observation


def cart_pole_positions(**env_params: Any) -> Env:
    """Make CartPole-v1 of gymnax with hidden velocities: of [x, ẋ, θ, θ̇] the agent sees x and θ."""
    return mask_observation(gymnax.make("CartPole-v1", **env_params), (0, 2))


@dataclass(frozen=True)
class NimParams:
    """Parameters of `nim`."""

    max_pile: int = 20  # most stones at the start
    max_take: int = 3  # most stones in a move


NIM_RANGES = {"max_pile": (2, 10_000), "max_take": (2, 10_000)}


def nim(**env_params: Any) -> Env:
    """Make the subtraction game: two players take 1 to max_take stones in turn, and whoever takes the last one wins.

    Action a takes a + 1 stones; more than the pile has is masked. The opponent takes a random number. The observation
    is {"observation": the pile one-hot [max_pile + 1], "action_mask": [max_take] bool}. The reward at the end is 1 for
    a win and -1 for a loss. The pile at the start is random, but not a multiple of max_take + 1. A player who always
    leaves such a multiple therefore wins every game, and the best return is 1.

    Raises:
        ValueError: a parameter is unknown, of a wrong type or out of range.
    """
    params = replace_params("Nim-v1", NimParams(), env_params, ranges=NIM_RANGES)
    take, size = params.max_take, params.max_pile + 1
    if params.max_pile < take:
        raise ValueError(f"Nim-v1 needs max_pile >= max_take, not {params.max_pile} and {take}")
    starts = [n for n in range(1, size) if n % (take + 1)]

    def observe(pile: jax.Array) -> dict[str, jax.Array]:
        mask = jnp.arange(1, take + 1, dtype=jnp.int32) <= pile
        return {"observation": jax.nn.one_hot(pile, size, dtype=jnp.float32), "action_mask": mask}

    def reset(key: PRNGKey) -> tuple[jax.Array, Observation]:
        pile = jax.random.choice(key, jnp.asarray(starts, jnp.int32))
        return pile, observe(pile)

    def step(key: PRNGKey, pile: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        left = jnp.maximum(pile - action - 1, 0)
        won = left == 0
        reply = jax.random.randint(key, (), 1, jnp.minimum(left, take) + 1, jnp.int32)
        left = jnp.where(won, 0, left - reply)
        result = jnp.where(won, jnp.float32(1.0), jnp.float32(-1.0))
        reward = jnp.where(left == 0, result, jnp.float32(0.0))
        obs = observe(left)
        return left, TimeStep(obs, reward, left == 0, jnp.bool_(False), obs)

    observation = {"observation": box(0, 1, (size,)), "action_mask": box(0, 1, (take,), bool)}
    return Env(reset, step, observation, Discrete(take), truncation_gap=NEVER)


@dataclass(frozen=True)
class KingParams:
    """Parameters of `king`."""

    size: int = 8  # squares on a side
    max_steps: int = 50  # the episode is truncated after so many


KING_RANGES = {"size": (2, 1000), "max_steps": (1, INT32_MAX)}


class KingState(NamedTuple):
    """Squares of the king and of its target."""

    king: jax.Array  # [2]  int32, file and rank
    target: jax.Array  # [2]  int32


def king(**env_params: Any) -> Env:
    """Make a king that walks to a square of a chessboard with actions MultiDiscrete((3, 3)): -1, 0 or +1 on each axis.

    Each move costs 1; a move over the edge is not made. Both squares are random and different. The observation is the
    four coordinates one-hot, [4 * size]. The best return is minus the larger of the two distances.

    Raises:
        ValueError: a parameter is unknown, of a wrong type or out of range.
    """
    params = replace_params("King-v1", KingParams(), env_params, ranges=KING_RANGES)
    size = params.size

    def observe(state: KingState) -> jax.Array:
        return jax.nn.one_hot(jnp.concatenate(state), size, dtype=jnp.float32).ravel()

    def reset(key: PRNGKey) -> tuple[KingState, jax.Array]:
        key_king, key_distance = jax.random.split(key)
        square = jax.random.randint(key_king, (), 0, size**2, jnp.int32)
        other = (square + jax.random.randint(key_distance, (), 1, size**2, jnp.int32)) % size**2
        state = KingState(*(jnp.stack([x // size, x % size]) for x in (square, other)))
        return state, observe(state)

    def step(key: PRNGKey, state: KingState, action: jax.Array) -> tuple[KingState, TimeStep]:
        state = state._replace(king=jnp.clip(state.king + action - 1, 0, size - 1))
        obs = observe(state)
        arrived = (state.king == state.target).all()
        return state, TimeStep(obs, jnp.float32(-1.0), arrived, jnp.bool_(False), obs)

    endless = Env(reset, step, box(0, 1, (4 * size,)), MultiDiscrete((3, 3)), truncation_gap=NEVER)
    return time_limit(endless, params.max_steps)


MAKERS = {"CartPolePositions-v1": cart_pole_positions, "Nim-v1": nim, "King-v1": king}


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return tuple(MAKERS)


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of the suite.

    Args:
        name: its id.
        env_params: parameters that replace the defaults.

    Raises:
        ValueError: a parameter is unknown (the nearest are named), of a wrong type or out of range.
    """
    return MAKERS[name](**env_params)


def renderer(name: str, **env_params: object) -> Renderer | None:
    """Return how states are drawn; only CartPole has pictures."""
    return gymnax.renderer("CartPole-v1", **env_params) if name == "CartPolePositions-v1" else None
