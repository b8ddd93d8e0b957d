"""Small environments of our own, each for one thing that is hard elsewhere, with the best return known.

| id | what it is for | best return |
|---|---|---|
| CartPolePositions-v1 | memory: the velocities are hidden | 500, as with them |
| Nim-v1 | invalid actions, masked | 1: every game can be won |
| King-v1 | MultiDiscrete actions | -3.75 on average: minus the king's moves from the one field to the other |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from purejaxppo.envs.parameters import replace_params
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, MultiDiscrete, box
from purejaxppo.envs.suites import gymnax
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.envs.wrappers.observations import mask_observation


def cart_pole_positions(**env_params: Any) -> Env:
    """gymnax's CartPole-v1 of which only the position of the cart and the angle of the pole are seen.

    One line of it is all it takes to hide something: of [x, ẋ, θ, θ̇] keep entries 0 and 2.
    """
    return mask_observation(gymnax.make("CartPole-v1", **env_params), (0, 2))


@dataclass(frozen=True)
class NimParams:
    """Parameters of `nim`."""

    max_pile: int = 20  # stones at most at the start
    max_take: int = 3  # stones at most in a turn


def nim(**env_params: Any) -> Env:
    """The subtraction game: two players in turn take 1 to max_take stones from a pile, whoever takes the last one wins.

    Action a takes a + 1 stones; more than there are is masked. The opponent takes a random number. The observation is
    {"observation": the pile one-hot [max_pile + 1], "action_mask": [max_take] bool}; the reward at the end is 1 for a
    game won and -1 for one lost. The pile at the start is random, but none that is a multiple of max_take + 1: so who
    always leaves such a multiple wins every game, and the best return is 1.
    """
    params = replace_params("Nim-v1", NimParams(), env_params)
    take, size = params.max_take, params.max_pile + 1
    if take < 2 or params.max_pile < take:
        raise ValueError(f"Nim-v1 needs max_take >= 2 and max_pile >= max_take, not {take} and {params.max_pile}")
    starts = [n for n in range(1, size) if n % (take + 1)]

    def observe(pile: jax.Array) -> dict[str, jax.Array]:
        mask = jnp.arange(1, take + 1) <= pile
        return {"observation": jax.nn.one_hot(pile, size, dtype=jnp.float32), "action_mask": mask}

    def reset(key: jax.Array) -> tuple[jax.Array, Any]:
        pile = jax.random.choice(key, jnp.asarray(starts, jnp.int32))
        return pile, observe(pile)

    def step(key: jax.Array, pile: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        left = jnp.maximum(pile - action - 1, 0)
        won = left == 0
        reply = jax.random.randint(key, (), 1, jnp.minimum(left, take) + 1, jnp.int32)
        left = jnp.where(won, 0, left - reply)
        reward = jnp.where(left == 0, jnp.where(won, 1.0, -1.0), 0.0).astype(jnp.float32)
        obs = observe(left)
        return left, TimeStep(obs, reward, left == 0, jnp.bool_(False), obs)

    observation = {"observation": box(0, 1, (size,)), "action_mask": box(0, 1, (take,), bool)}
    return Env(reset, step, observation, Discrete(take))


@dataclass(frozen=True)
class KingParams:
    """Parameters of `king`."""

    size: int = 8  # fields a side
    max_steps: int = 50  # then the episode is truncated


class KingState(NamedTuple):
    """Where the king is and where it shall go: file and rank, [2] int32 each."""

    king: jax.Array
    target: jax.Array


def king(**env_params: Any) -> Env:
    """A king on a chessboard walks to a field: MultiDiscrete((3, 3)), a step back, none or one forth in each direction.

    Each move costs 1; steps over the edge are not made. Both fields are random and different. The observation shows
    the four coordinates one-hot, [4 * size]. The best return is minus the larger of the two distances.
    """
    params = replace_params("King-v1", KingParams(), env_params)
    size = params.size
    if size < 2:
        raise ValueError(f"King-v1 needs a board of at least 2 x 2 fields, not {size} x {size}")

    def observe(state: KingState) -> jax.Array:
        return jax.nn.one_hot(jnp.concatenate(state), size, dtype=jnp.float32).ravel()

    def reset(key: jax.Array) -> tuple[KingState, jax.Array]:
        key_king, key_way = jax.random.split(key)
        field = jax.random.randint(key_king, (), 0, size**2, jnp.int32)
        other = (field + jax.random.randint(key_way, (), 1, size**2, jnp.int32)) % size**2
        state = KingState(*(jnp.stack([x // size, x % size]) for x in (field, other)))
        return state, observe(state)

    def step(key: jax.Array, state: KingState, action: jax.Array) -> tuple[KingState, TimeStep]:
        state = state._replace(king=jnp.clip(state.king + action - 1, 0, size - 1))
        obs = observe(state)
        arrived = (state.king == state.target).all()
        return state, TimeStep(obs, jnp.float32(-1.0), arrived, jnp.bool_(False), obs)

    return time_limit(Env(reset, step, box(0, 1, (4 * size,)), MultiDiscrete((3, 3))), params.max_steps)


MAKERS = {"CartPolePositions-v1": cart_pole_positions, "Nim-v1": nim, "King-v1": king}


def ids() -> tuple[str, ...]:
    """Every id of the suite."""
    return tuple(MAKERS)


def make(name: str, **env_params: Any) -> Env:
    """The environment `name`; `env_params` replace its parameters.

    Raises:
        ValueError: an unknown parameter (the nearest are named), one of a wrong type, or one that makes no sense.
    """
    return MAKERS[name](**env_params)
