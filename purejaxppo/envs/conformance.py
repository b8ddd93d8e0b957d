"""Make an environment conform to the protocol, and check that one does.

`conform` corrects dtypes, weak types and scalar observations. `check_env` compares shapes and dtypes,
for an Env and for a VecEnv, and plays an environment with action masks for a while.
"""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from purejaxppo._util.aliases import Action, EnvState, Mask, Observation, PRNGKey, PyTree, Shapes
from purejaxppo._util.programs import is_tracing, jit_once
from purejaxppo.envs.auto_reset import choose
from purejaxppo.envs.families import lift
from purejaxppo.envs.masks import action_mask, check_mask, has_action, sample_allowed
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, check_is_env, describe, key_aval, step_avals
from purejaxppo.envs.spaces import (
    Box,
    Compound,
    Discrete,
    Space,
    box,
    cast_action,
    children,
    encoded_space,
    is_compound,
    rebuild,
    sample_space,
    single_precision,
)


@contextmanager
def allow_promotion() -> Iterator[None]:
    """Lift JAX's strict promotion modes while the code of an environment runs, whatever the user has set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# conform -------------------------------------------------------------------------------------------------------------


@lift
def conform(env: Env, num_agents: int | None = None) -> Env:
    """Adapt a loosely written environment to the protocol; every adapter ends with this call.

    Rewards and entries of `info` become float32 scalars, and flags bool scalars. States and observations get one dtype
    at reset and step, never a weak one, so that the type of a state is a fixed point of `step`. A Discrete observation
    becomes one-hot and a scalar one [1]; 64-bit observations become 32-bit; the observation space gets the dtypes that
    observations have. Actions are float32, whatever the dtype of the environment's Box. JAX's strict promotion modes
    are lifted inside the environment's functions, which are traced once (`jax.jit`).

    Args:
        env: the environment.
        num_agents: number of agents A of an environment for `fold_agents`, whose observations, actions and rewards
            have a leading axis [A]; the spaces are those of one agent, and the flags are scalars.

    Raises:
        TypeError: it is not an Env.
        ValueError: reset and step return states or observations of different structure or shape, or observations that
            are not of the observation space.
    """
    check_is_env(env)
    space, axes = env.observation_space, 0 if num_agents is None else 1

    @jax.jit
    def loose_reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        with allow_promotion():
            env_state, obs = env.reset(key)
            return jax.tree.map(jnp.asarray, (env_state, _regular(space, obs, axes)))

    @jax.jit
    def loose_step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        with allow_promotion():
            env_state, timestep = env.step(key, env_state, cast_action(env.action_space, action))
            obs = _regular(space, timestep.obs, axes)
            reward = _scalar("the reward", timestep.reward, num_agents)
            terminated = _scalar("terminated", timestep.terminated)
            truncated = _scalar("truncated", timestep.truncated)
            info = {name: _scalar(f"info[{name!r}]", x) for name, x in dict(timestep.info).items()} or ()
            return jax.tree.map(jnp.asarray, (env_state, TimeStep(obs, reward, terminated, truncated, obs, info)))

    loose = env._replace(reset=loose_reset, step=loose_step, action_space=single_precision(env.action_space))
    state, obs, next_state, timestep = step_avals(loose, num_agents)
    with allow_promotion():
        state_dtypes = _common_dtypes("state", state, next_state)
        obs_dtypes = jax.tree.map(_single, _common_dtypes("observation", obs, timestep.obs))
    dtypes = TimeStep(obs_dtypes, _FLOAT, _BOOL, _BOOL, obs_dtypes, jax.tree.map(lambda x: _FLOAT, timestep.info))

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        env_state, obs = loose_reset(key)
        return _cast(env_state, state_dtypes), _cast(obs, obs_dtypes)

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        env_state, timestep = loose_step(key, env_state, action)
        timestep = _cast(timestep, dtypes)
        return _cast(env_state, state_dtypes), timestep._replace(final_obs=timestep.obs)

    shapes = jax.tree.map(lambda x, dtype: jax.ShapeDtypeStruct(x.shape[axes:], dtype), obs, obs_dtypes)
    return loose._replace(reset=reset, step=step, observation_space=_true_space(space, shapes))


_FLOAT: PyTree = np.dtype(np.float32)
_BOOL: PyTree = np.dtype(np.bool_)
_SINGLE = {"float64": "float32", "int64": "int32", "uint64": "uint32"}


def _single(dtype: np.dtype) -> np.dtype:
    """Return the 32-bit dtype of a 64-bit one, and any other as it is."""
    return np.dtype(_SINGLE[dtype.name]) if dtype.name in _SINGLE else dtype


def _scalar(name: str, x: ArrayLike, num_agents: int | None = None) -> jax.Array:
    """Return a number as a scalar, or one for each agent [A].

    Raises:
        ValueError: it is an array of another size.
    """
    x = jnp.asarray(x)
    if num_agents is not None and x.size == num_agents:
        return x.reshape(num_agents)
    if x.size != 1:
        wanted = "a scalar" if num_agents is None else f"a scalar or one number for each of {num_agents} agents"
        raise ValueError(f"{name} of a step must be {wanted}, not an array of shape {x.shape}")
    return x.reshape(()) if num_agents is None else jnp.broadcast_to(x.reshape(()), (num_agents,))


def _regular(space: Space, obs: Observation, axes: int, name: str = "obs") -> Observation:
    """Return an observation with Discrete entries one-hot and scalars as [1].

    Args:
        space: its space.
        obs: the observation, with `axes` leading axes.
        axes: number of leading axes.
        name: its name in messages.

    Raises:
        ValueError: its structure is not that of the space, or an entry is not an array.
    """
    if is_compound(space):
        entries = _entries(space, obs, name)
        return rebuild(space, [_regular(child, entries[i], axes, f"{name}[{i!r}]") for i, child in children(space)])
    if not isinstance(obs, bool | int | float | np.generic) and not (hasattr(obs, "shape") and hasattr(obs, "dtype")):
        raise ValueError(
            f"{name} is an object of type {type(obs).__name__}, but its space is {space}: observations are arrays, and "
            "dicts and tuples of them; turn other containers into dicts"
        )
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n, dtype=jnp.float32)
    x = jnp.asarray(obs)
    return x[..., None] if x.ndim == axes else x


def _entries(space: Compound, obs: Observation, name: str) -> Observation:
    """Return a compound observation.

    Raises:
        ValueError: it has other entries than its space.
    """
    if isinstance(space, dict):
        matches = isinstance(obs, Mapping) and set(obs) == set(space)
        wanted = f"a dict with the keys {', '.join(sorted(space))}"
    else:
        matches = isinstance(obs, tuple | list) and len(obs) == len(space)
        wanted = f"a tuple of {len(space)}"
    if matches:
        return obs
    found = f"has the keys {', '.join(map(str, obs))}" if isinstance(obs, Mapping) else f"is a {type(obs).__name__}"
    raise ValueError(f"{name} must be {wanted}, as its space is, but it {found}")


def _true_space(space: Space, obs: Shapes, name: str = "obs") -> Space:
    """Return the space with the shape and dtype that regular observations have.

    Raises:
        ValueError: the declared shape is another one, or pixels are not uint8.
    """
    if is_compound(space):
        return rebuild(space, [_true_space(child, obs[i], f"{name}[{i!r}]") for i, child in children(space)])
    if not isinstance(space, Box):
        return encoded_space(space) if isinstance(space, Discrete) else space
    if space.shape not in (obs.shape, ()):
        raise ValueError(f"{name} has the shape {obs.shape}, but its space is {space}: correct the observation space")
    if space.pixels and obs.dtype != np.uint8:
        raise ValueError(f"{name} has the dtype {obs.dtype}, but its space says pixels, which are uint8")
    return box(space.low, space.high, obs.shape, obs.dtype, pixels=space.pixels, codes=space.codes)


def _common_dtypes(kind: str, first: Shapes, later: Shapes) -> PyTree:
    """Return the dtype of each leaf that holds the values of reset (`first`) and of step (`later`).

    Raises:
        ValueError: the structures or shapes differ.
    """
    if jax.tree.structure(first) != jax.tree.structure(later):
        raise ValueError(
            f"reset and step give a different {kind}: {jax.tree.structure(first)} against {jax.tree.structure(later)}"
        )

    def common(a: jax.ShapeDtypeStruct, b: jax.ShapeDtypeStruct) -> np.dtype:
        if a.shape != b.shape:
            raise ValueError(f"reset and step give a different {kind}: shape {a.shape} against {b.shape}")
        return a.dtype if a.dtype == b.dtype else jnp.promote_types(a.dtype, b.dtype)

    return jax.tree.map(common, first, later)


def _cast(tree: PyTree, dtypes: PyTree) -> PyTree:
    """Cast each leaf; this also removes weak types, which would cause a second compile."""

    def cast(x: jax.Array, dtype: np.dtype) -> jax.Array:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return x
        return jax.lax.convert_element_type(x, dtype)

    return jax.tree.map(cast, tree, dtypes)


NOT_OF_SPACE = "the observation is not of the observation space"  # how `protocol_problems` begins such a problem

# check_env -----------------------------------------------------------------------------------------------------------


def check_env(env: Env | VecEnv, num_envs: int | None = None) -> None:
    """Check that an environment keeps to the protocol.

    Nothing is computed, except that an Env with an action mask is played at random for a while.

    Args:
        env: the environment.
        num_envs: number of columns N with which a VecEnv is checked; by default twice its `group_size`.

    Raises:
        TypeError: it is neither an Env nor a VecEnv.
        ValueError: names everything that is wrong and, if it would help, `conform`; or random play found a state in
            which the mask forbids every action.
    """
    problems = protocol_problems(env, num_envs)
    if problems and isinstance(env, VecEnv):
        count = 2 * env.group_size if num_envs is None else num_envs
        where = f"the protocol of VecEnv with num_envs = {count}"
        raise ValueError(f"{describe(env)} does not keep to {where}: {'; '.join(problems)}")
    if problems:
        text = "; ".join(problems)
        raise ValueError(f"{describe(env)} does not keep to the protocol (conform(env) corrects dtypes): {text}")
    if isinstance(env, Env) and action_mask(env.observation_space) is not None:
        _check_masks(env)


def protocol_problems(env: Env | VecEnv, num_envs: int | None = None) -> list[str]:
    """List how the shapes and dtypes of an environment break the protocol. Nothing is computed.

    Args:
        env: the environment.
        num_envs: number of columns N with which a VecEnv is checked; by default twice its `group_size`.

    Raises:
        TypeError: it is neither an Env nor a VecEnv.
        ValueError: a VecEnv does not allow this number of columns, or its noise has no axis of steps.
    """
    check_is_env(env)
    if isinstance(env, VecEnv):
        return _batch_problems(env, 2 * env.group_size if num_envs is None else num_envs)
    state, obs, next_state, timestep = step_avals(env)
    problems = _step_problems(env, (state, obs), (next_state, timestep), ())
    if any(x.weak_type for x in jax.tree.leaves((state, obs))):
        problems.append("the state or the observation is weakly typed, which causes a second compile after a reload")
    return problems


def _batch_problems(env: VecEnv, num_envs: int) -> list[str]:
    """List how the shapes of a VecEnv break its protocol.

    Raises:
        ValueError: it does not allow `num_envs` columns, or its noise has no axis of steps.
    """
    if num_envs % env.group_size:
        raise ValueError(
            f"num_envs = {num_envs} is not a multiple of {env.group_size}, which {describe(env)} needs (the columns of "
            "one environment, such as the agents of a team)"
        )
    key, num_steps = key_aval(), 3
    state, obs = jax.eval_shape(lambda key: env.reset(key, num_envs), key)
    noise = jax.eval_shape(lambda key: env.noise(key, num_steps, num_envs), key)
    if any(x.shape[:1] != (num_steps,) for x in jax.tree.leaves(noise)):
        found = sorted({str(x.shape) for x in jax.tree.leaves(noise) if x.shape[:1] != (num_steps,)})
        raise ValueError(
            f"noise(key, num_steps, num_envs) of {describe(env)} must have leaves [num_steps, ...], but for "
            f"num_steps = {num_steps} it has leaves of shape {', '.join(found)}"
        )
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), noise)
    action = jax.eval_shape(
        lambda key: jax.vmap(partial(sample_space, env.action_space))(jax.random.split(key, num_envs)), key
    )
    result = jax.eval_shape(env.step, row, state, action)
    return _step_problems(env, (state, obs), result, (num_envs,))


def _step_problems(
    env: Env | VecEnv, start: tuple[Shapes, Shapes], result: tuple[Shapes, Shapes], batch: tuple[int, ...]
) -> list[str]:
    """List how the results of reset and step break the protocol.

    Args:
        env: the environment.
        start: (state, obs) of reset, as shapes and dtypes.
        result: (state, TimeStep) of step.
        batch: shape of a reward: () or (N,).
    """
    (state, obs), (next_state, timestep) = start, result
    if not isinstance(timestep, TimeStep):
        return [
            f"step must return (env_state, TimeStep), not an object of type {type(timestep).__name__} in second place"
        ]
    single = jax.eval_shape(partial(sample_space, env.observation_space), key_aval())
    expected = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype), single)
    comparisons = (
        ("the state after reset and after a step differ", state, next_state, True),
        ("the observation of reset and of a step differ", obs, timestep.obs, True),
        ("obs and final_obs of a step differ", timestep.obs, timestep.final_obs, True),
        (f"{NOT_OF_SPACE} {env.observation_space}", obs, expected, False),
    )
    problems = [f"{text}: {found}" for text, a, b, weak in comparisons if (found := _difference(a, b, weak))]
    info = timestep.info
    if info != () and not (isinstance(info, dict) and all(hasattr(x, "shape") for x in info.values())):
        return [*problems, f"info must be a flat dict of scalars by name, or (), not {jax.tree.structure(info)}"]
    leaves = [
        ("reward", timestep.reward, "float32"),
        *((name, getattr(timestep, name), "bool") for name in ("terminated", "truncated")),
    ]
    leaves += [
        (f"info{jax.tree_util.keystr(path)}", x, "float32")
        for path, x in jax.tree_util.tree_leaves_with_path(timestep.info)
    ]
    for name, leaf, dtype in leaves:
        if leaf.shape != batch or leaf.dtype != dtype or leaf.weak_type:
            weak = "weakly typed " if leaf.weak_type else ""
            wanted = f"a {dtype} scalar" if not batch else f"{dtype} {batch}"
            problems.append(f"{name} must be {wanted}, not {weak}{leaf.dtype} {leaf.shape}")
    return problems


def _difference(a: Shapes, b: Shapes, weak_types: bool) -> str:
    """Describe how two trees of shapes and dtypes differ; empty if they do not.

    Structures are compared as structures: a class of the environment can define `==` otherwise.
    """
    structures = jax.tree.structure(a), jax.tree.structure(b)
    if structures[0] != structures[1]:
        return f"{structures[0]} against {structures[1]}"

    def kind(x: jax.ShapeDtypeStruct) -> str:
        return f"{'weakly typed ' if weak_types and x.weak_type else ''}{x.dtype} {x.shape}"

    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    found = [
        f"{jax.tree_util.keystr(path)} {kind(x)} against {kind(y)}" for (path, x), y in pairs if kind(x) != kind(y)
    ]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]).strip() + more


# Random play under masks ---------------------------------------------------------------------------------------------

# Step functions of environments that have passed random play: they are not played again.
_PLAYED: weakref.WeakSet[FunctionType] = weakref.WeakSet()


def _check_masks(env: Env, num_steps: int = 128, num_envs: int = 16) -> None:
    """Play at random among the allowed actions.

    Raises:
        ValueError: the mask does not fit the action space, or a state allows no action.
    """
    check_mask(env.action_space, action_mask(env.observation_space))
    if is_tracing():
        return
    if isinstance(env.step, FunctionType) and env.step in _PLAYED:
        return
    stuck, age, mask = jit_once(partial(_play, env, num_steps, num_envs))(jax.random.key(0))
    if isinstance(stuck, Tracer):  # parameters of the environment are mapped over
        return
    if not stuck.any():
        if isinstance(env.step, FunctionType):  # which can be referred to weakly
            _PLAYED.add(env.step)
        return
    t, n = np.argwhere(np.asarray(stuck))[0]
    seen = jax.tree.map(lambda x: np.asarray(x)[t, n].astype(int).tolist(), mask)
    raise ValueError(
        f"{describe(env)} allows no action in {int(stuck.sum())} of {stuck.size} states of random play, first "
        f"{age[t, n]} steps into an episode with the action mask {seen}: a state without an allowed action must end "
        "the episode; envs.wrappers.always_some_action(env) allows every action in such a state"
    )


def _play(env: Env, num_steps: int, num_envs: int, key: PRNGKey) -> tuple[jax.Array, jax.Array, Mask]:
    """Play random allowed actions; an environment whose episode ends starts again in its first state.

    Returns:
        Whether the mask allows nothing, the steps since the start of the episode, and the mask; leaves [T, N, ...].
    """
    key_reset, key_step, key_action = jax.random.split(key, 3)
    shape = (num_steps, num_envs)
    first = jax.vmap(env.reset)(jax.random.split(key_reset, num_envs))
    draw = jax.vmap(partial(sample_allowed, env.action_space))

    def step(carry: tuple, keys: tuple) -> tuple[tuple, tuple]:
        env_state, obs, age = carry
        mask = action_mask(obs)
        env_state, ts = jax.vmap(env.step)(keys[0], env_state, draw(mask, keys[1]))
        stuck = jnp.broadcast_to(~has_action(env.action_space, mask), age.shape)
        done = ts.terminated | ts.truncated
        env_state, obs = jax.tree.map(partial(choose, done), first, (env_state, ts.obs))
        return (env_state, obs, jnp.where(done, 0, age + 1)), (stuck, age, mask)

    start = (*first, jnp.zeros(num_envs, jnp.int32))
    return jax.lax.scan(step, start, (jax.random.split(key_step, shape), jax.random.split(key_action, shape)))[1]
