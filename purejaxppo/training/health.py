"""Find the first thing that went wrong in a run: an action mask, the environment, the loss or the parameters.

The XLA program only counts (see `Metrics`); here the counts are read on the host and put into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purejaxppo.metrics import flat

# Kinds of faults in causal order: what the environment does precedes the losses of the same update.
OBSERVATION, REWARD, MASK, LOSS, PARAMETERS = "observation", "reward", "mask", "loss", "parameters"
COUNTS = {
    OBSERVATION: "nonfinite_observations",
    REWARD: "nonfinite_rewards",
    MASK: "masked_states",
    PARAMETERS: "nonfinite_parameters",
}
LOSSES = {
    "policy_loss": "policy loss",
    "value_loss": "value loss",
    "entropy": "entropy",
    "total_loss": "total loss",
    "kl": "KL divergence",
}
ADVICE = "A smaller learning_rate or max_grad_norm, or scale_rewards, may help"


class Fault(NamedTuple):
    """The first fault of a run or of an evaluation."""

    kind: str  # OBSERVATION, REWARD, MASK, LOSS or PARAMETERS
    update: int = 0  # number of the update, from 1; 0: in an evaluation
    step: int = -1  # of the rollout or of the episode, from 0; -1: unknown
    count: int = 0  # steps, states or parameters concerned
    losses: tuple[tuple[str, float], ...] = ()  # non-finite losses by name

    def message(self, env_name: str = "") -> str:
        """Return one or two sentences: what became non-finite, where, and what to do."""
        env = f"the environment {env_name}" if env_name else "the environment"
        if self.kind == MASK:
            states = "1 state" if self.count == 1 else f"{self.count} states"
            return (
                f"{env} allowed no action in {states} {self._place()}: its action mask forbade all of them. "
                "A state without an allowed action must end the episode"
            )
        if self.kind in (OBSERVATION, REWARD):
            what = f"1 {self.kind}" if self.count == 1 else f"{self.count} {self.kind}s"
            return f"{env} returned NaN or Inf in {what} {self._place()}"
        parameters = "1 parameter" if self.count == 1 else f"{self.count} parameters"
        if self.kind == PARAMETERS:
            verb = "became NaN or Inf" if self.update else "of the policy are NaN or Inf"
            return f"{parameters} {verb}{self._place(' ')}" + (f". {ADVICE}" if self.update else "")
        losses = ", ".join(f"the {name} became {value}" for name, value in self.losses)
        after = f", and then {parameters} NaN or Inf" if self.count else ""
        return f"{losses} {self._place()}{after}. {ADVICE}"

    def _place(self, before: str = "") -> str:
        step = f" {self.step}" if self.step >= 0 else ""
        if self.update:
            return f"{before}in update {self.update}" + (f", first at step{step} of the rollout" if step else "")
        return f"{before}of the evaluation, first at step{step} of an episode" if step else ""


class RunError(ValueError):
    """A run or an evaluation whose results are meaningless; the message says what went wrong first.

    `fault` holds the same as data, `result` what the function would have returned.
    """

    def __init__(self, message: str, fault: Fault, result: Any = None):
        super().__init__(message)
        self.fault = fault
        self.result = result


class RunWarning(UserWarning):
    """Some of several runs failed, or some episodes of an evaluation did not end."""


def find_fault(metrics: Any, first_update: int = 0) -> Fault | None:
    """Return the first fault of one run, or None if it is healthy.

    Args:
        metrics: Metrics, or a mapping with the names of its fields, [U] each. Fields that are missing are not checked,
            so metrics of an own `update` are accepted.
        first_update: updates done before these.
    """
    named = _numbers(metrics)
    bad = _bad_updates(named)
    if not bad.any():
        return None
    i = int(np.argmax(bad))
    at = {name: float(np.ravel(named[name])[i]) for name in named}
    counts = {kind: int(at.get(name, 0.0)) for kind, name in COUNTS.items()}
    for kind in (OBSERVATION, REWARD, MASK):
        if counts[kind]:
            return Fault(kind, first_update + i + 1, int(at.get("first_fault_step", -1)), counts[kind])
    losses = tuple((LOSSES[name], at[name]) for name in LOSSES if not np.isfinite(at.get(name, 0.0)))
    return Fault(LOSS if losses else PARAMETERS, first_update + i + 1, -1, counts[PARAMETERS], losses)


def diagnose(metrics: Any, env_name: str = "", first_update: int = 0) -> str | None:
    """Return what went wrong first in one run, in words, or None if it is healthy; arguments as `find_fault`."""
    fault = find_fault(metrics, first_update)
    return fault.message(env_name) if fault else None


def failed_runs(metrics: Any) -> np.ndarray:
    """Return which runs of a sweep failed: their losses or parameters, or their environment, became non-finite.

    A run fails as well if its environment allowed no action in some state.

    Args:
        metrics: of `sweep`, or of vmapped runs, fields [..., U].

    Returns:
        Booleans [...], such as [H, S] of a sweep.
    """
    return _bad_updates(_numbers(metrics)).any(-1)


def faults_of_runs(metrics: Any, first_update: int = 0) -> dict[tuple[int, ...], Fault]:
    """Return the first fault of each failed run of several, by its index such as (h, s); arguments as `find_fault`."""
    named = _numbers(metrics)
    faults = {}
    for index in map(tuple, np.argwhere(_bad_updates(named).any(-1))):
        fault = find_fault({name: x[index] for name, x in named.items()}, first_update)
        if fault:
            faults[tuple(map(int, index))] = fault
    return faults


def is_traced(tree: Any) -> bool:
    """Return whether a tree is being traced, so that its values cannot be read."""
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def _numbers(metrics: Any) -> dict[str, np.ndarray]:
    """Return the fields that say whether a run is healthy as NumPy arrays, by name."""
    if isinstance(metrics, Mapping):
        named = metrics
    elif hasattr(metrics, "_fields"):
        named = flat(metrics)
    else:
        named = {}
    wanted = [name for name in (*LOSSES, *COUNTS.values(), "first_fault_step") if name in named]
    return {name: np.asarray(x) for name, x in jax.device_get({name: named[name] for name in wanted}).items()}


def _bad_updates(named: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which updates are faulty, [..., U]."""
    flags = [~np.isfinite(named[name]) for name in LOSSES if name in named]
    flags += [named[name] > 0 for name in COUNTS.values() if name in named]
    return np.any(flags, axis=0) if flags else np.zeros(1, bool)


def nonfinite_per_env(tree: Any, num_envs: int) -> jax.Array:
    """Return whether any floating-point value of each environment is NaN or Inf, leaves [N, ...] -> bool [N]."""
    bad = jnp.zeros(num_envs, bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            bad |= ~jnp.isfinite(leaf).reshape(num_envs, -1).all(-1)
    return bad
