"""Adapter for JaxMARL: MPE, SMAX and Overcooked. The agents of a team share a policy and are columns of the batch.

* terminated: SMAX: one side is dead, also if the clock runs out at the same step. MPE and Overcooked: never.
* truncated: `dones["__all__"]` otherwise: `state.step >= max_steps`. MPE and SMAX compare before they count, so an
  episode has `max_steps` + 1 steps: 26 and 101.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, PyTree, SuiteObject
from purejaxppo._util.text import nearest
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import arguments_of, choose_arguments, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv
from purejaxppo.envs.spaces import Box, Discrete, Space, box
from purejaxppo.envs.wrappers.agents import fold_agents

SMAX = ("SMAX", "HeuristicEnemySMAX")


def ids() -> tuple[str, ...]:
    """Return every id that the adapter knows."""
    return recorded_ids("jaxmarl")


def make(name: str, **env_params: Any) -> VecEnv:
    """Make a team of JaxMARL as a batch of its agents; `num_envs` counts agents.

    An observation that is a vector is padded to the longest one of the team and followed by the one-hot number of the
    agent; one that is an image becomes {"observation": image, "agent": number}. If agents have different numbers of
    actions, or some actions are unavailable, the observation has an "action_mask".

    Args:
        name: id of the environment.
        env_params: arguments of the environment's class. `scenario` of SMAX is the name of a map such as "3m", and
            `layout` of Overcooked the name of a layout; `shaping` of Overcooked is the weight of its shaped reward.

    Raises:
        MissingSuite: jaxmarl is not installed, or its version does not work.
        ValueError: an unknown parameter, map or layout (the nearest are named), or one of a wrong kind.
    """
    jaxmarl = import_suite("jaxmarl")
    with suite_code(), jax.ensure_compile_time_eval():
        defaults = _arguments(name)
        chosen = choose_arguments(name, defaults, env_params)
        shaping = chosen.pop("shaping", 0.0)
        team = jaxmarl.make(name, **_resolve_names(name, chosen))
        env = conform(_adapt(name, team, shaping), num_agents=team.num_agents)
        return fold_agents(env._replace(resets="every_step"), team.num_agents)


def _arguments(name: str) -> dict[str, Any]:
    """Return the arguments that can be given and their defaults."""
    suite = import_suite("jaxmarl", "jaxmarl.registration")
    if name in SMAX:
        scenario = {"scenario": "2s3z"}  # the suite's default is given by numbers of units
        own = arguments_of(getattr(suite, name)) if name != "SMAX" else {}
        return arguments_of(suite.SMAX) | own | scenario
    if name.startswith("MPE_"):
        words = name.split("_")[1:-1]
        own = arguments_of(getattr(suite, "".join(word.title() for word in words) + "MPE"))
        hidden = ("agents", "landmarks", "action_spaces", "observation_spaces", "colour", "dim_c", "dim_p", "kwargs")
        return {"max_steps": 25} | {k: v for k, v in own.items() if k not in hidden}
    own = arguments_of(suite.Overcooked if name == "overcooked" else suite.OvercookedV2)
    return own | {"layout": "cramped_room", "shaping": 0.0}


def _resolve_names(name: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Replace the names of a map or of a layout by the suite's own objects."""
    if name in SMAX:
        module = import_suite("jaxmarl", "jaxmarl.environments.smax.smax_env")
        scenario = _look_up(name, "scenario", module.MAP_NAME_TO_SCENARIO, chosen.get("scenario", "2s3z"))
        return chosen | {"scenario": scenario}
    if name == "overcooked":
        layouts = import_suite("jaxmarl", "jaxmarl.environments.overcooked").overcooked_layouts
        return chosen | {"layout": _look_up(name, "layout", layouts, chosen.get("layout", "cramped_room"))}
    return chosen


def _look_up(name: str, what: str, known: SuiteObject, value: str) -> SuiteObject:
    if value not in known:
        raise ValueError(f"{name}: unknown {what} {value!r} (nearest: {', '.join(nearest(value, known, 3))})")
    return known[value]


def _adapt(name: str, team: SuiteObject, shaping: float) -> Env:
    """Return the Env of a team, with a leading agent axis [A]."""
    agents = team.agents
    views = [team.observation_space(agent) for agent in agents]
    choices = [team.action_space(agent) for agent in agents]
    action_space = _action_space(choices)
    observe = _observer(name, team, [np.shape(jnp.zeros(view.shape)) for view in views], choices)

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        obs, state = team.reset(raw_key(key))
        return state, observe(obs, state)

    @quiet
    def step(key: PRNGKey, state: EnvState, action: jax.Array) -> tuple[EnvState, TimeStep]:
        joint = {agent: _own(action[i], choices[i]) for i, agent in enumerate(agents)}
        obs, state, rewards, dones, info = team.step_env(raw_key(key), state, joint)
        reward = jnp.stack([jnp.asarray(rewards[agent], jnp.float32).reshape(()) for agent in agents])
        if "shaped_reward" in info:
            reward += shaping * jnp.stack([info["shaped_reward"][agent] for agent in agents])
        dead, won = _battle(team, state) if name in SMAX else (jnp.bool_(False), None)
        seen = observe(obs, state)
        quantities = {} if won is None else {"won": won}
        return state, TimeStep(seen, reward, dead, dones["__all__"] & ~dead, seen, quantities)

    space: PyTree = jax.tree.map(_box, jax.eval_shape(reset, jax.random.key(0))[1])
    if isinstance(space, dict) and "agent" in space:
        space["observation"] = dataclasses.replace(space["observation"], codes=_one_hot_layers(name, team))
    return Env(reset, step, space, action_space)


def _one_hot_layers(name: str, team: SuiteObject) -> np.ndarray:
    """Return which layers [C] of Overcooked's images are one-hot; the others count ingredients or steps of cooking."""
    if name == "overcooked":
        ingredients_and_timer = range(16, 21)
        return np.asarray([layer not in ingredients_and_timer for layer in range(26)])
    counts = team.layout.num_ingredients * [False]
    item = 2 * [True] + counts  # whether it is a plate, whether it is cooked
    agent = 5 * [True] + item  # position and direction
    places = (6 + len(counts)) * [True]
    return np.asarray(2 * agent + places + 2 * item + [False] + team.indicate_successful_delivery * [True])


def _battle(team: SuiteObject, state: EnvState) -> tuple[jax.Array, jax.Array]:
    """Return whether one side of SMAX is dead, and whether it is the enemy's."""
    units = getattr(state, "state", state).unit_alive
    allies, enemies = units[: team.num_allies].any(), units[team.num_allies :].any()
    return ~allies | ~enemies, allies & ~enemies


def _action_space(choices: list[SuiteObject]) -> Space:
    """Return the space of one agent that contains those of all agents."""
    if hasattr(choices[0], "n"):
        return Discrete(max(int(choice.n) for choice in choices))
    widest = max(choices, key=lambda choice: choice.shape[0])
    return box(widest.low, widest.high, widest.shape)


def _own(action: jax.Array, choice: SuiteObject) -> jax.Array:
    """Return the action of an agent whose space may be smaller than the widest one."""
    return action if hasattr(choice, "n") else action[: choice.shape[0]]


def _box(x: jax.ShapeDtypeStruct) -> Box:
    """Return the space of one agent's entry [A, ...] of an observation."""
    if x.dtype == np.bool_:
        return box(0, 1, x.shape[1:], bool)
    return box(-np.inf, np.inf, x.shape[1:], x.dtype)


def _observer(
    name: str, team: SuiteObject, shapes: list[tuple[int, ...]], choices: list[SuiteObject]
) -> Callable[[PyTree, EnvState], Observation]:
    """Return the function (suite's observations, state) -> observation with a leading agent axis [A]."""
    agents, number = team.agents, jnp.eye(len(team.agents), dtype=bool)
    images = all(len(shape) > 1 for shape in shapes)
    longest = max(int(np.prod(shape)) for shape in shapes)
    sizes = [int(choice.n) for choice in choices if hasattr(choice, "n")]
    allowed = jnp.asarray([[i < n for i in range(max(sizes))] for n in sizes], bool)
    masked = name in SMAX or len(set(sizes)) > 1

    def pad(x: jax.Array) -> jax.Array:
        x = jnp.ravel(x).astype(jnp.float32)
        return jnp.pad(x, (0, longest - x.size))

    def observe(obs: Observation, state: EnvState) -> Observation:
        seen: PyTree
        if images:
            seen = {"observation": jnp.stack([obs[agent] for agent in agents]), "agent": number}
        else:
            seen = jnp.concatenate([jnp.stack([pad(obs[agent]) for agent in agents]), number], axis=1)
        if not masked:
            return seen
        mask = allowed
        if name in SMAX:
            available = team.get_avail_actions(state)
            widths = [(0, max(sizes) - n) for n in sizes]
            mask = jnp.stack([jnp.pad(available[a] > 0, w) for a, w in zip(agents, widths, strict=True)])
            mask |= allowed & ~mask.any(1, keepdims=True)
        return {**(seen if images else {"observation": seen}), "action_mask": mask}

    return observe
