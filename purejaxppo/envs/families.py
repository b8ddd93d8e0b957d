"""Families of environments: `make_env(params) -> Env`, whose parameters are data of the program.

`parametrized` makes the environment of the default parameters, which knows its family. The training program takes the
parameters from the TrainState (`at_params`), so that they change between updates without a recompile. Wrappers keep the
family (`lift`). Axes: N columns of a batch.
"""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Action, EnvState, Observation, PRNGKey, PyTree
from purejaxppo._util.trees import strong_dtypes
from purejaxppo.envs.protocol import Env, TimeStep, VecEnv, check_is_env, describe

AnyEnv = TypeVar("AnyEnv", bound=Env | VecEnv)
Wrapper = TypeVar("Wrapper", bound=Callable[..., Env | VecEnv])


def parametrized(make_env: Callable[[PyTree], AnyEnv], params: PyTree, *, per_column: bool = False) -> AnyEnv:
    """Return an environment whose parameters are traced data: levels, physics, rewards, opponents.

    `TrainState.env_params` holds the parameters, and `set_env_params` replaces them between updates without a
    recompile. They must not decide shapes or spaces.

    Args:
        make_env: (params) -> Env or VecEnv, a pure function of arrays.
        params: the default parameters, a pytree of numbers and arrays.
        per_column: each of the N columns, or each group of columns, has separate parameters, leaves [N, ...] or
            [N / group_size, ...], for domain randomization. `params` are those of one column, in which every column
            starts. Only for an Env, and neither with a pool of first states nor with `frozen_opponent`. A VecEnv with
            separate parameters for its columns takes them as leaves [N, ...] of `params`.

    Raises:
        ValueError: `params` has no arrays, a space depends on them, or `make_env` returns an environment that has
            parameters already, or a VecEnv with `per_column`.
    """
    params = strong_dtypes(jax.tree.map(jnp.asarray, params))
    if not jax.tree.leaves(params):
        raise ValueError(f"the parameters of an environment must contain at least one number, not {params!r}")
    env = make_env(params)
    if env.family is not None:
        raise ValueError(
            f"make_env must return an environment without parameters, but {describe(env)} has them already"
        )
    if per_column and isinstance(env, VecEnv):
        raise ValueError(
            f"per_column needs an Env, but {describe(env)} is a VecEnv; give it parameters with leaves [N, ...] instead"
        )
    traced = _with_traced(make_env, params, describe(env))
    spaces = (traced.observation_space, traced.action_space)
    if spaces != (env.observation_space, env.action_space):
        raise ValueError(
            f"the spaces of {describe(env)} must not depend on its parameters, but traced ones give {spaces}"
        )
    # A promise that holds for all values, not only for those of the default.
    gap = min(env.truncation_gap, traced.truncation_gap)
    return with_family(env._replace(truncation_gap=gap), params, make_env, per_column)


def with_family(env: AnyEnv, params: PyTree, family: Callable[[PyTree], Env | VecEnv], per_column: bool) -> AnyEnv:
    """Return an environment that knows its family.

    Args:
        env: the environment of the default parameters.
        params: the default parameters.
        family: (params) -> environment.
        per_column: as of `parametrized`.
    """
    return env._replace(params=params, family=family, family_of=(env.reset, env.step), per_column=per_column)


_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _with_traced(make_env: Callable[[PyTree], AnyEnv], params: PyTree, name: str) -> AnyEnv:
    """Return the environment whose parameters have no values, for its static fields.

    Raises:
        ValueError: the environment cannot be made without values.
    """
    found: list[AnyEnv] = []

    def look(params: PyTree) -> tuple[()]:
        found.append(make_env(params))
        return ()

    try:
        jax.eval_shape(look, params)
    except _NEEDS_VALUES as error:
        raise ValueError(
            f"the shapes and spaces of {name} must not depend on its parameters, but make_env needs their values: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return found[0]


def lift(wrapper: Wrapper) -> Wrapper:
    """Make a wrapper apply to every environment of a family, so that parameters reach the environment through it.

    Args:
        wrapper: (env, ...) -> env.

    Returns:
        The wrapper. It raises ValueError for an environment whose functions were replaced by another wrapper that was
        not lifted.
    """

    @wraps(wrapper)
    def lifted(env: Env | VecEnv, *args: PyTree, **options: PyTree) -> Env | VecEnv:
        family = env.family
        if family is None:
            return wrapper(env, *args, **options)
        check_is_env(env)
        wrapped = wrapper(env, *args, **options)
        if wrapped is env:
            return env
        return with_family(
            wrapped, env.params, lambda params: wrapper(family(params), *args, **options), env.per_column
        )

    return cast(Wrapper, lifted)


def at_params(env: AnyEnv, params: PyTree) -> AnyEnv:
    """Return the environment with the parameters given, which may be traced.

    One without a family is returned unchanged. For an Env, the parameters are those of one column.
    """
    return env if env.family is None else cast(AnyEnv, env.family(params))


def columns(env: Env, params: PyTree = None) -> Env:
    """Return an environment whose reset and step take N columns: keys [N], states [N, ...], actions [N, ...].

    Args:
        env: the environment.
        params: its parameters, leaves [N, ...] if it has separate ones for each column; by default its own.
    """
    if params is None or env.family is None or not env.per_column:
        one = env if params is None else at_params(env, params)
        return env._replace(reset=jax.vmap(one.reset), step=jax.vmap(one.step), family=None, params=())
    family = env.family

    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        return jax.vmap(lambda params, key: family(params).reset(key))(params, key)

    def step(key: PRNGKey, env_state: EnvState, action: Action) -> tuple[EnvState, TimeStep]:
        return jax.vmap(lambda params, *inputs: family(params).step(*inputs))(params, key, env_state, action)

    return env._replace(reset=reset, step=step, family=None, params=())


def first_params(env: Env | VecEnv, num_envs: int, params: PyTree = None) -> PyTree:
    """Return the parameters with which a batch starts.

    Args:
        env: the environment.
        num_envs: number of columns N.
        params: replace those of the environment, if given; with leaves as they are returned.

    Returns:
        The parameters, with leaves [N, ...] if each column has separate ones, [N / group_size, ...] if each group has.
    """
    if params is not None or not env.per_column:
        return env.params if params is None else params
    groups = num_envs // (env.group_size if isinstance(env, VecEnv) else 1)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (groups, *x.shape)), env.params)


def as_params(given: PyTree, like: PyTree, axes: int = 0) -> PyTree:
    """Return parameters as arrays of the structure, shapes and dtypes of others.

    Args:
        given: a pytree of numbers and arrays. A Python number takes the dtype of its leaf.
        like: arrays, or shapes and dtypes.
        axes: number of leading axes of `like` along which a leaf without them is repeated.

    Raises:
        ValueError: another structure, shape or dtype; names the first such leaf.
    """
    if jax.tree.structure(given) != jax.tree.structure(like):
        raise ValueError(
            f"env_params must have the structure {jax.tree.structure(like)}, not {jax.tree.structure(given)}"
        )

    def convert(path: tuple, x: PyTree, leaf: jax.Array) -> jax.Array:
        name = f"env_params{jax.tree_util.keystr(path)}"
        array = jnp.asarray(x, leaf.dtype if _is_number(x, leaf.dtype) else None)
        if array.dtype != leaf.dtype or array.shape not in (leaf.shape, leaf.shape[axes:]):
            wanted, found = f"{leaf.dtype} {leaf.shape}", f"{array.dtype} {array.shape}"
            raise ValueError(f"{name} must be {wanted}, not {found}")
        return jnp.broadcast_to(jax.lax.convert_element_type(array, leaf.dtype), leaf.shape)

    return jax.tree_util.tree_map_with_path(convert, given, like)


def _is_number(x: PyTree, dtype: np.dtype) -> bool:
    """Return whether a Python number, or a weakly typed one, can stand for a scalar of a dtype."""
    if isinstance(x, bool) or not (isinstance(x, int | float) or getattr(x, "weak_type", False)):
        return False
    kind = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) or (
        jnp.issubdtype(dtype, jnp.integer) and jnp.issubdtype(kind, jnp.integer)
    )
