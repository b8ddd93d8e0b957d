"""Four steps with all 256 patterns of going on, terminating, being truncated, or both, and random numbers."""

import itertools

import numpy as np

GAMMA, LAM = 0.9, 0.8


def every_pattern(T=4):
    """Return rewards, values, next values and both flags of all (neither, terminated, truncated, both)^T, [T, 4^T]."""
    kinds = np.array(list(itertools.product(range(4), repeat=T))).T
    rng = np.random.default_rng(0)
    rewards, values, next_values = rng.normal(size=(3, *kinds.shape)).astype(np.float32)
    return rewards, values, next_values, kinds % 2 == 1, kinds >= 2


ROWS = every_pattern()
REWARDS, VALUES, NEXT_VALUES, TERMINATED, TRUNCATED = ROWS
NO_VALUES = (REWARDS, NEXT_VALUES, TERMINATED, TRUNCATED)

# Within an episode V(s'_t) and V(s_{t+1}) are one number; the identities between targets rest on that.
SAME_STATE = np.where((TERMINATED | TRUNCATED)[:-1], VALUES[1:], NEXT_VALUES[:-1])
CONSISTENT = (REWARDS, np.concatenate([VALUES[:1], SAME_STATE]), NEXT_VALUES, TERMINATED, TRUNCATED)
