"""Act with a policy outside of training, step by step, in any environment: `load(path).act(obs)`.

Neither loading nor acting needs an environment of this package: a policy file holds the spaces and the settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from purejaxppo._util.aliases import Action, KeyLike, Observation, Params, PyTree, RnnState
from purejaxppo._util.trees import add_time_axis, drop_time_axis
from purejaxppo.envs.masks import action_mask, has_action, is_asymmetric
from purejaxppo.envs.protocol import Env
from purejaxppo.envs.registry import make
from purejaxppo.envs.spaces import (
    Box,
    Compound,
    Discrete,
    Leaf,
    MultiDiscrete,
    Space,
    children,
    normalized_leaves,
    rebuild,
    zero_of,
)
from purejaxppo.envs.wrappers.actions import clip_action
from purejaxppo.functional.running_stats import RunningMoments, init_moments, normalize
from purejaxppo.networks.actor_critic import make_network
from purejaxppo.networks.protocol import Network, check_is_network
from purejaxppo.training.arguments import as_key
from purejaxppo.training.errors import CheckpointError
from purejaxppo.training.policy_file import Policy, Spaces, read_policy, read_run, read_spaces
from purejaxppo.training.run_folder import POLICY_FILE

Mode: TypeAlias = tuple[bool | tuple[bool, ...], ...]  # which leaves of an observation are normalized


@dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """A policy that acts on observations as its environment returns them; also accepted by `evaluate` and `record`."""

    observation_space: Space
    action_space: Space
    network: Network = field(repr=False)
    params: Params = field(repr=False)
    obs_moments: RunningMoments = field(repr=False)
    normalized: Mode = field(repr=False)

    def act(
        self,
        obs: Observation,
        carry: RnnState | None = None,
        key: KeyLike | None = None,
        *,
        is_first: ArrayLike | None = None,
    ) -> tuple[Action, RnnState]:
        """Return the action for one observation, or the actions for a batch of N.

        The result is a pair for every network. Pass its second element to the next call, and None at the start of an
        episode; it is () for a network without recurrent state. The function runs on the host, not inside `jit`.

        Args:
            obs: an element of `observation_space`, or a batch of N with leaves [N, ...]. The entry "critic" of an
                asymmetric observation may be missing.
            carry: the second element of the last result, or None at the start of an episode.
            key: takes a sample if given: a key, typed or raw, or an integer seed. Without it the mode is returned.
            is_first: bool [N], the columns of a batch that start an episode although `carry` is given.

        Returns:
            The action as NumPy arrays, within the bounds of `action_space`, and the next carry.

        Raises:
            ValueError: an observation that is not of `observation_space`, is not finite, or allows no action; a carry
                or `is_first` of another batch.
            TypeError: `key` is not a key.
        """
        batch, num_envs = as_batch(self.observation_space, obs)
        size = 1 if num_envs is None else num_envs
        first = _is_first(carry, is_first, size)
        if carry is None:
            carry = self.network.initial_rnn_state(size)
        elif any(jnp.shape(x)[:1] != (size,) for x in jax.tree.leaves(carry)):
            raise ValueError(f"carry comes from another number of observations than the {size} of this call")
        key = None if key is None else as_key(key, "act")
        policy = (self.params, self.obs_moments)
        action, carry, mask = _act(self.network.apply, self.normalized, policy, carry, batch, first, key)
        if mask is not None and not np.all(has_action(self.action_space, mask)):
            raise ValueError("the action mask of the observation allows no action")
        return _to_numpy(self.action_space, jax.device_get(action), num_envs is None), carry


def load(path: str | Path, network: Network | None = None) -> LoadedPolicy:
    """Load a policy that acts; no environment package is needed.

    Args:
        path: a run folder of `purejaxppo train`, or a policy file alone.
        network: the network that was trained, if `save_policy` was called without settings (`run`), as for a network
            of your own. By default it is made from the settings in the file.

    Raises:
        CheckpointError: a missing or damaged file, a file without settings or spaces, or a network that does not fit.
        TypeError: `network` is no Network.
    """
    file = Path(path) / POLICY_FILE if Path(path).is_dir() else Path(path)
    spaces = read_spaces(file) or _spaces_of_environment(file)
    if network is None:
        network = make_network(_without_functions(spaces), read_run(file).network)
    check_is_network(network)
    expected = Policy(
        jax.eval_shape(network.init, jax.random.key(0)),
        jax.eval_shape(lambda: init_moments(zero_of(spaces.observation_space))),
    )
    params, moments = read_policy(file, expected)
    normalized = normalized_leaves(spaces.observation_space, spaces.normalize_observations)
    return LoadedPolicy(spaces.observation_space, spaces.action_space, network, params, moments, normalized)


def _spaces_of_environment(file: Path) -> Spaces:
    """Return the spaces of the environment that a file without spaces names."""
    run = read_run(file)
    try:
        env = clip_action(make(run.env, **run.env_params))
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"{file}: keeps no spaces, and its environment cannot be made: {error}") from None
    return Spaces(env.observation_space, env.action_space, run.config.normalize_observations)


def _without_functions(spaces: Spaces) -> Env:
    """Return an Env of the spaces, whose functions are never called."""

    def missing(*args: PyTree) -> tuple:
        raise RuntimeError("a loaded policy has no environment")

    return Env(missing, missing, spaces.observation_space, spaces.action_space)


@partial(jax.jit, static_argnums=(0, 1))
def _act(
    apply: Callable[..., tuple],
    normalized: Mode,
    policy: tuple,
    rnn_state: RnnState,
    obs: Observation,
    is_first: Array,
    key: Array | None,
) -> tuple:
    """Return actions, recurrent state and action mask of a batch; leaves [N, ...]."""
    params, moments = policy
    seen = normalize(moments, obs, only=normalized)
    rnn_state, distribution, _ = apply(params, rnn_state, *add_time_axis((seen, is_first)))
    distribution = drop_time_axis(distribution)
    action = distribution.mode() if key is None else distribution.sample(key)
    return distribution.to_env(action), rnn_state, action_mask(obs)


def _is_first(carry: RnnState | None, is_first: ArrayLike | None, size: int) -> np.ndarray:
    if is_first is None:
        return np.full(size, carry is None)
    given = np.asarray(is_first)
    if given.dtype != np.bool_ or given.shape not in ((), (size,)):
        raise ValueError(f"is_first must be bool [{size}], not {given.dtype} {list(given.shape)}")
    return np.broadcast_to(given, (size,))


# Observations and actions of the environment -------------------------------------------------------------------------


def as_batch(space: Space, obs: PyTree) -> tuple[Observation, int | None]:
    """Return an observation, or a batch, as NumPy arrays with leaves [N, ...].

    Args:
        space: the observation space.
        obs: an element of it, or a batch with leaves [N, ...], of anything that NumPy converts to arrays.

    Returns:
        The batch, and N, or None if `obs` is one observation, in a batch of 1.

    Raises:
        ValueError: `obs` is not of `space`, or is not finite; the message names the entry.
    """
    leads: set[tuple[int, ...]] = set()

    def convert(space: Space, x: PyTree, where: str) -> PyTree:
        if isinstance(space, Discrete | MultiDiscrete | Box):
            array = _as_array(space, x, where)
            leads.add(array.shape[: array.ndim - len(_shape(space))])
            return array
        if isinstance(space, dict) and is_asymmetric(space) and isinstance(x, dict) and "actor" in x:
            x = {"critic": _unseen(space, x["actor"]), **x}
        _check_structure(space, x, where)
        return rebuild(space, [convert(child, x[i], f"{where}[{i!r}]") for i, child in children(space)])

    batch = convert(space, obs, "obs")
    if len(leads) > 1:
        raise ValueError(f"the entries of obs have different leading axes: {sorted(leads)}")
    (lead,) = leads
    return (batch, lead[0]) if lead else (jax.tree.map(lambda x: x[None], batch), None)


def _check_structure(space: Compound, x: PyTree, where: str) -> None:
    """Raise ValueError if `x` is not a dict or sequence of the entries of a space."""
    if isinstance(space, dict):
        fits = isinstance(x, dict) and set(x) == set(space)
        wanted = f"a dict with the keys {', '.join(sorted(space))}"
    else:
        fits = isinstance(x, tuple | list) and len(x) == len(space)
        wanted = f"a tuple of {len(space)}"
    if not fits:
        found = f"a dict with {', '.join(map(str, x))}" if isinstance(x, dict) else f"a {type(x).__name__}"
        raise ValueError(f"{where} must be {wanted}, not {found}")


def _unseen(space: dict[str, Space], seen: PyTree) -> Observation:
    """Return zeros in place of the critic's observation, which actions do not depend on.

    Args:
        space: of an asymmetric observation.
        seen: the actor's observation, or a batch.
    """
    batch, num_envs = as_batch(space["actor"], seen)
    lead = () if num_envs is None else jax.tree.leaves(batch)[0].shape[:1]
    zeros = jax.eval_shape(lambda: zero_of(space["critic"]))
    return jax.tree.map(lambda x: np.zeros((*lead, *x.shape), x.dtype), zeros)


def _shape(leaf: Leaf) -> tuple[int, ...]:
    if isinstance(leaf, Box):
        return leaf.shape
    return (len(leaf.nvec),) if isinstance(leaf, MultiDiscrete) else ()


def _as_array(leaf: Leaf, x: ArrayLike, where: str) -> np.ndarray:
    """Return an entry of an observation in the dtype of its space, with no leading axis or one."""
    array, shape = np.asarray(x), _shape(leaf)
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(leaf.dtype)) if isinstance(leaf, Box) else np.dtype(np.int32)
    lead = array.ndim - len(shape)
    if lead not in (0, 1) or array.shape[lead:] != shape:
        raise ValueError(f"{where} must have the shape {shape}, or (N, *{shape}) for a batch, not {array.shape}")
    if array.dtype.kind not in ("biuf" if dtype.kind == "f" else "biu"):
        raise ValueError(f"{where} must be {dtype}, not {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{where} contains NaN or infinity")
    if not isinstance(leaf, Box) and ((array < 0) | (array >= _sizes(leaf))).any():
        raise ValueError(f"{where} must be an element of {leaf}, not {array.tolist()}")
    return array.astype(dtype)


def _sizes(leaf: Discrete | MultiDiscrete) -> np.ndarray:
    return np.asarray(leaf.n if isinstance(leaf, Discrete) else leaf.nvec)


def _to_numpy(space: Space, action: Action, is_single: bool) -> Action:
    """Return actions [N, ...], or the one action of a batch of 1, within the bounds of the action space."""
    if isinstance(space, dict | tuple):
        return rebuild(space, [_to_numpy(child, action[i], is_single) for i, child in children(space)])
    array = np.asarray(action)
    if isinstance(space, Box):
        array = np.clip(array, space.low, space.high).astype(space.dtype)
    return array[0] if is_single else array
