"""Change the parameters of the environment between updates: `set_env_params`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from purejaxppo._util.aliases import PyTree, Shapes
from purejaxppo.envs.families import as_params, first_params
from purejaxppo.envs.protocol import describe
from purejaxppo.training.arguments import batch_shape, check_state
from purejaxppo.training.policy_file import Policy
from purejaxppo.types import Algorithm, TrainState


def set_env_params(state: TrainState, params: PyTree) -> TrainState:
    """Return the state with other parameters of the environment, which hold from the next step on.

    The running episodes go on under them, and all later resets use them. Nothing is compiled again, because shapes,
    dtypes and devices stay. It may be called inside `jit`, and on the states of several runs.

    Args:
        state: a TrainState of an environment with parameters (`parametrized`).
        params: numbers and arrays of the structure, shapes and dtypes of `state.env_params`. For the states of several
            runs, leaves without their axes are shared by all runs.

    Raises:
        TypeError: `state` is no TrainState.
        ValueError: the environment has no parameters, or a structure, shape or dtype differs; names the leaf.
    """
    check_state(state, "set_env_params")
    old = state.env_params
    if not jax.tree.leaves(old):
        raise ValueError("set_env_params needs a state of an environment with parameters; make one with parametrized")
    return state._replace(env_params=jax.tree.map(_like, as_params(params, old, len(batch_shape(state))), old))


def _like(new: Array, old: Array) -> Array:
    """Put an array on the devices of another one, without which the next update would be compiled again."""
    if isinstance(new, Tracer) or isinstance(old, Tracer) or not old.committed:
        return new
    return jax.device_put(new, old.sharding)


def params_of_batch(algo: Algorithm, given: PyTree) -> PyTree:
    """Return the parameters with which the environments of a run start; None if the defaults are to be used.

    Raises:
        ValueError: the environment has no parameters, or a structure, shape or dtype differs; names the leaf.
    """
    if given is None:
        return None
    return as_params(given, params_shapes(algo))


def params_of_settings(algo: Algorithm, given: PyTree) -> tuple[PyTree, int]:
    """Return the parameters of the settings of a sweep, leaves [H, ...], and H; without that axis if H is 1.

    Args:
        algo: the algorithm.
        given: leaves as of one run, or with a leading axis [H].

    Raises:
        ValueError: leaves with several lengths H, or other leaves than those of the environment.
    """
    params, size = _with_axis(given, params_shapes(algo))
    return (jax.tree.map(lambda x: x[0], params), 1) if size == 1 else (params, size)


def params_of_episodes(algo: Algorithm, state: TrainState | Policy, given: PyTree) -> tuple[PyTree, int]:
    """Return the parameters with which a policy is evaluated, and the number of leading axes of several policies.

    If each column has separate parameters, leaves have a leading axis [M], and episode e gets those of entry
    (e // group_size) mod M; the group size of an Env is 1.

    Args:
        algo: the algorithm.
        state: a TrainState or a Policy.
        given: parameters for all policies; by default those of a TrainState, and those of the environment for a Policy.

    Raises:
        ValueError: the environment has no parameters, or a structure, shape or dtype differs; names the leaf.
    """
    own = getattr(state, "env_params", ())
    if given is None and jax.tree.leaves(own):
        return own, len(batch_shape(state))
    if given is not None:
        params_shapes(algo)
    given = algo.env.params if given is None else given
    return (_with_axis(given, algo.env.params)[0] if algo.env.per_column else as_params(given, algo.env.params)), 0


def _with_axis(given: PyTree, like: PyTree) -> tuple[PyTree, int]:
    """Return parameters with a leading axis, leaves [H, ...], and H; a leaf without that axis is repeated.

    Raises:
        ValueError: leaves with several lengths H, or a structure, shape or dtype other than in `like`.
    """
    sizes: set[int] = set()
    if jax.tree.structure(given) == jax.tree.structure(like):
        pairs = zip(jax.tree.leaves(given), jax.tree.leaves(like), strict=True)
        sizes = {jnp.shape(x)[0] for x, leaf in pairs if jnp.ndim(x) == leaf.ndim + 1}
    if len(sizes) > 1:
        raise ValueError(f"the leaves of env_params must have one length along their first axis, not {sorted(sizes)}")
    size = sizes.pop() if sizes else 1
    several = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), like)
    return as_params(given, several, axes=1), size


def params_shapes(algo: Algorithm) -> Shapes:
    """Return shapes and dtypes of `TrainState.env_params`.

    Raises:
        ValueError: the environment has no parameters.
    """
    env = algo.components.env
    if env.family is None:
        raise ValueError(f"env_params: {describe(env)} has no parameters; make them with parametrized")
    return jax.eval_shape(partial(first_params, env, algo.config.num_envs))
