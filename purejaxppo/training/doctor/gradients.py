"""The gradient of the loss under `jit`, compared with the gradient computed one operation at a time.

A compiler fuses operations, and a fusion can be wrong from some size on. So the batch has as many rows as a usual
minibatch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import Params
from purejaxppo.config.schema import Hyperparams
from purejaxppo.ppo import collect_rollout, compute_targets, loss
from purejaxppo.training.doctor.programs import quick_jit
from purejaxppo.types import Algorithm, Batch, TrainState

ROWS = 2048
SMALL = 1e-3  # entries of this share of the largest gradient are compared with it instead of with those of their array


def gradient_errors(algo: Algorithm, state: TrainState, h: Hyperparams, rows: int = ROWS) -> dict[str, float]:
    """Return by how much the gradient of the loss (13) under `jit` differs from the one without, by parameter.

    Args:
        algo: of `make_ppo`.
        state: of one run; a rollout from it is repeated until it has enough rows.
        h: the hyperparameters.
        rows: samples of the batch, at least.

    Returns:
        The largest difference of each array of parameters, relative to its largest entry; NaN and Inf count as inf.
    """

    def gradient(params: Params, batch: Batch) -> Params:
        return jax.grad(lambda params: loss(algo.components, h, params, batch)[0])(params)

    batch = _batch(algo, state, h, rows)
    compiled = jax.device_get(jax.jit(gradient)(state.params, batch))
    with jax.disable_jit():
        exact = jax.device_get(gradient(state.params, batch))
    pairs = zip(jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(compiled), strict=True)
    largest = max((float(np.abs(x).max(initial=0.0)) for x in jax.tree.leaves(exact)), default=0.0)
    return {jax.tree_util.keystr(path): _difference(x, y, SMALL * largest) for (path, x), y in pairs}


def _batch(algo: Algorithm, state: TrainState, h: Hyperparams, rows: int) -> Batch:
    """Return the training data of a rollout, repeated along the sequences, leaves [L, M, ...]."""

    def collect(state: TrainState) -> Batch:
        after, rollout = collect_rollout(algo.components, state, state.key)
        return compute_targets(algo.components, state.params, after, rollout, h)

    batch = quick_jit(collect)(state)
    count = -(-rows // batch.advantage.size)
    return jax.tree.map(lambda x: jnp.concatenate([x] * count, axis=1), batch)


def _difference(exact: np.ndarray, other: np.ndarray, floor: float) -> float:
    scale = max(float(np.abs(exact).max(initial=0.0)), floor)
    error = float(np.abs(np.float64(exact) - np.float64(other)).max(initial=0.0))
    if error == 0.0:
        return 0.0
    return error / scale if np.isfinite(error) and scale > 0.0 else float("inf")
