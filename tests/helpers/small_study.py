"""A study of three settings on one task, one of which has a failed run, with a test and a generalization."""

import numpy as np

from purejaxppo.analysis.study import Arm, Generalization, Study


def arm(label, level, seeds=12, task="Chain", status=(), is_test=False, rate=1e-3):
    rng = np.random.default_rng(int(10 * level) + 7 * is_test)
    scores = level + rng.normal(size=seeds)
    status = status or ("finished",) * seeds
    scores = np.where(np.array(status) == "finished", scores, np.nan)
    steps = np.linspace(1000, 20_000, 20)
    curves = scores[:, None] * np.linspace(0.1, 1.0, 20)
    first = 100 if is_test else 0
    seed_numbers = tuple(range(first, first + seeds))
    return Arm(
        label, task, seed_numbers, scores, steps, curves, curves.mean(1), status, {"learning_rate": rate}, is_test
    )


FAILED = ("failed", *["finished"] * 11)
ARMS = (arm("low", 1.0, rate=1e-4), arm("high_1", 5.0), arm("broken", 3.0, status=FAILED, rate=1e-2))
STUDY = Study(
    "A study", (*ARMS, arm("high_1", 4.5, 16, is_test=True)), {"command": "purejaxppo sweep x", "device": "cpu"}
)

VALUES = np.array([5.0, 9.8, 15.0])
GENERAL = (
    Generalization("usual", "Chain", "gravity", VALUES, np.array([[1.0, 9.0, 2.0]] * 12), 9.8),
    Generalization("heavy", "Chain", "gravity", VALUES, np.array([[7.0, 9.0, 3.0]] * 12), 15.0),
)
