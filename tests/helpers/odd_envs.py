"""Environments with nested, image and asymmetric observations, and with masks in their state."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import probes
from probes import integer, quick_jit

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.masks import action_mask, sample_allowed
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import (
    Discrete,
    box,
)
from purejaxppo.envs.wrappers.action_masks import with_action_mask
from purejaxppo.envs.wrappers.observations import (
    map_observation,
)


def nested() -> Env:
    """Observations as a dict of a tuple, an integer and an array; they count the steps."""
    space = {
        "z": (Discrete(4), box(0, 9, (2, 2), np.int32)),
        "a": box(-5, 5, (3,)),
    }

    def observe(time: jax.Array) -> Any:
        return {"z": (time, jnp.full((2, 2), time)), "a": jnp.full((3,), -time.astype(jnp.float32))}

    def step(key: jax.Array, time: jax.Array, action: jax.Array) -> tuple[jax.Array, TimeStep]:
        time, obs = time + 1, observe(time + 1)
        return time, TimeStep(obs, jnp.float32(0), jnp.asarray(False), jnp.asarray(False), obs)

    return Env(lambda key: (integer(0), observe(integer(0))), step, space, Discrete(2))


def pixels(dtype: Any = np.uint8) -> Env:
    return map_observation(
        probes.constant_reward(),
        lambda obs: jnp.arange(12).reshape(2, 3, 2).astype(dtype),
        box(0, 255, (2, 3, 2), dtype),
    )


def plane() -> Env:
    """An image without channels, [2, 3], that shows the time."""
    return map_observation(
        probes.scripted(terminate_at=(), truncate_at=(3,), random_start=False),
        lambda obs: jnp.full((2, 3), obs[1]).astype(jnp.uint8),
        box(0, 255, (2, 3), np.uint8),
    )


def asymmetric(outside: bool = False) -> Env:
    """Return `masked` with a level that only the critic observes; the mask is in the actor's entry or outside."""
    env, level = probes.masked(), jnp.ones((2, 2), jnp.float32)

    def split(x: Any, level: Any) -> Any:
        actor, critic = x if not outside else {"observation": x["observation"]}, {"x": x["observation"], "level": level}
        return {"actor": actor, "critic": critic} | ({"action_mask": x["action_mask"]} if outside else {})

    return map_observation(env, lambda obs: split(obs, level), split(env.observation_space, box(0, 1, (2, 2))))


def hidden_mask() -> Env:
    """Return `masked` with the mask in its state instead of the observation."""
    env = probes.masked()
    space: Any = env.observation_space
    return map_observation(env, lambda obs: obs["observation"], space["observation"])


def of_state(state: Any, obs: Any) -> jax.Array:
    """Return the mask of `hidden_mask`."""
    return state[1]


def judged() -> Env:
    """Make an environment whose mask has another form: even steps allow action 0 only, odd ones both."""
    return with_action_mask(nested(), lambda time, obs: jnp.stack([time >= 0, time % 2 == 1]))


def wander(env: Env, num_steps: int = 200, num_envs: int = 20) -> tuple[Any, Any, TimeStep]:
    """Play at random among the allowed actions -> (obs, action, TimeStep), leaves [T, N, ...]."""
    vec, choose = auto_reset(env), jax.vmap(partial(sample_allowed, env.action_space))

    def step(loop: tuple, noise: tuple) -> tuple:
        env_state, obs = loop
        action = choose(action_mask(obs), noise[1])
        env_state, ts = vec.step(noise[0], env_state, action)
        return (env_state, ts.obs), (obs, action, ts)

    @quick_jit
    def run(key: jax.Array) -> tuple[Any, Any, TimeStep]:
        keys = jax.random.split(key, 3)
        noise = vec.noise(keys[0], num_steps, num_envs), jax.random.split(keys[1], (num_steps, num_envs))
        return jax.lax.scan(step, vec.reset(keys[2], num_envs), noise)[1]

    return jax.tree.map(np.asarray, run(jax.random.key(7)))
