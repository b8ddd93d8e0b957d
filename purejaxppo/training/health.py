"""Judge the health of runs from their metrics: which runs failed, in which update, and why.

The XLA program only counts (see `Metrics`). Here the counts are read on the host. The module `faults` describes the
fault of one update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from purejaxppo._util.aliases import PyTree
from purejaxppo.metrics import Metrics, flat
from purejaxppo.training import faults

# Kinds of faults in causal order: what the environment does precedes the losses of the same update.
OBSERVATION, REWARD, MASK, TRUNCATION = "observation", "reward", "mask", "truncation"
LOSS, GRADIENT, PARAMETERS = "loss", "gradient", "parameters"
COUNTS = {
    OBSERVATION: "nonfinite_observations",
    REWARD: "nonfinite_rewards",
    MASK: "masked_states",
    TRUNCATION: "lost_final_observations",
    PARAMETERS: "nonfinite_parameters",
}
LOSSES = (*faults.LEARNED, "kl")
HEALTHY = dict.fromkeys((*LOSSES, *COUNTS.values(), *faults.SKIPPED), 0.0)
HEALTHY |= {"first_fault_step": -1.0, "first_fault_env": -1.0}
CAUSES = {1: LOSS, 2: GRADIENT, 3: PARAMETERS}  # of `Metrics.skip_cause`


class Fault(NamedTuple):
    """The first fault of a run or of an evaluation."""

    kind: str  # OBSERVATION, REWARD, MASK, TRUNCATION, LOSS, GRADIENT or PARAMETERS
    message: str  # what became non-finite, where, and what to do
    update: int = 0  # number of the update, from 1; 0: in an evaluation
    step: int = -1  # of the rollout or of the episode, from 0; -1: unknown
    env: int = -1  # index of the environment; -1: unknown
    count: int = 0  # steps, states, episodes or parameters concerned


class RunError(ValueError):
    """A run or an evaluation that went wrong; the message says what went wrong first.

    `fault` holds the same as data, `result` what the function would have returned.
    """

    def __init__(self, fault: Fault, result: PyTree = None):
        super().__init__(fault.message)
        self.fault = fault
        self.result = result


class RunWarning(UserWarning):
    """Some of several runs failed, or some episodes of an evaluation did not end."""


def find_fault(metrics: Metrics | Mapping[str, ArrayLike], env_name: str = "", first_update: int = 0) -> Fault | None:
    """Return the first fault of one run, or None if it is healthy.

    Args:
        metrics: Metrics, or a mapping with the names of its fields, [U] each. Fields that are missing are not checked,
            so metrics of an own `update` are accepted.
        env_name: name of the environment, for the message.
        first_update: updates done before these.
    """
    named = _numbers(metrics)
    bad = _bad_updates(named)
    if not bad.any():
        return None
    i = int(np.argmax(bad))
    row = HEALTHY | {name: float(np.ravel(x)[i]) for name, x in named.items()}
    update = first_update + i + 1
    env = f"the environment {env_name}" if env_name else "the environment"
    message = f"update {update}: {faults.find_fault(row, env)}"
    counts = {kind: int(row[name]) for kind, name in COUNTS.items()}
    for kind in (OBSERVATION, REWARD, MASK, TRUNCATION):
        if counts[kind]:
            where = (int(row["first_fault_step"]), int(row["first_fault_env"]))
            return Fault(kind, message, update, *where, counts[kind])
    kind = PARAMETERS if all(np.isfinite(row[name]) for name in LOSSES) else LOSS
    kind = CAUSES[int(row["skip_cause"])] if row["stalled"] else kind
    return Fault(kind, message, update, count=counts[PARAMETERS])


def failed_runs(metrics: Metrics | Mapping[str, ArrayLike]) -> np.ndarray:
    """Return which runs of a sweep failed: their losses or parameters, or their environment, became non-finite.

    A run fails as well if its environment allowed no action in some state.

    Args:
        metrics: of `sweep`, or of vmapped runs, fields [..., U].

    Returns:
        Booleans [...], such as [H, S] of a sweep.
    """
    return np.asarray(_bad_updates(_numbers(metrics)).any(-1))


def faults_of_runs(
    metrics: Metrics | Mapping[str, ArrayLike], env_name: str = "", first_update: int = 0
) -> dict[tuple[int, ...], Fault]:
    """Return the first fault of each failed run of several, by its index such as (h, s); arguments as `find_fault`."""
    named = _numbers(metrics)
    found = {}
    for index in map(tuple, np.argwhere(_bad_updates(named).any(-1))):
        fault = find_fault({name: x[index] for name, x in named.items()}, env_name, first_update)
        if fault:
            found[tuple(map(int, index))] = fault
    return found


def is_traced(tree: PyTree) -> bool:
    """Return whether a tree is being traced, so that its values cannot be read."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def _numbers(metrics: Metrics | Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Return the fields that say whether a run is healthy as NumPy arrays, by name."""
    if isinstance(metrics, Mapping):
        named = metrics
    elif hasattr(metrics, "_fields"):
        named = flat(metrics)
    else:
        named = {}
    wanted = [name for name in HEALTHY if name in named]
    return {name: np.asarray(x) for name, x in jax.device_get({name: named[name] for name in wanted}).items()}


def _bad_updates(named: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which updates are faulty, [..., U]."""
    flags = [~np.isfinite(named[name]) for name in LOSSES if name in named]
    flags += [named[name] > 0 for name in (*COUNTS.values(), "stalled") if name in named]
    return np.any(flags, axis=0) if flags else np.zeros(1, bool)


def nonfinite_per_env(tree: PyTree, num_envs: int) -> jax.Array:
    """Return whether any floating-point value of each environment is NaN or Inf, leaves [N, ...] -> bool [N]."""
    bad = jnp.zeros(num_envs, bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            bad |= ~jnp.isfinite(leaf).reshape(num_envs, -1).all(-1)
    return bad
