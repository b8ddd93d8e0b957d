"""Two run folders that hold the same run, and the kinds of runs of which tests compare two."""

import numpy as np

from purejaxppo.tracking.csv_file import read_csv
from purejaxppo.training.checkpoint_folder import list_checkpoints
from purejaxppo.training.manifest import read_manifest


def newest(folder):
    return list_checkpoints(folder)[0]


def assert_same_run(one, other):
    """Everything is equal but the times: every metric, the policy, and every array of the last checkpoint."""
    first, second = (read_csv(folder / "metrics.csv") for folder in (one, other))
    assert first.keys() == second.keys()
    for name in first.keys() - {"wall_time"}:
        np.testing.assert_array_equal(first[name], second[name], name)
    assert (np.diff(second["wall_time"]) > 0).all()
    assert newest(one).name == newest(other).name
    assert read_manifest(newest(one)).sha256 == read_manifest(newest(other)).sha256


VARIANTS = {
    "plain": ["--target-kl", "0.01", "--lr-anneal", "1"],
    "gru": ["--kind", "gru", "--rnn-size", "4", "--lr-target-kl", "0.01", "--clip-target-kl", "0.01"],
    "normalized": ["--normalize-observations", "--scale-rewards"],
    "kl": ["--objective", "kl", "--beta-target-kl", "0.003"],
    "two-devices": ["--num-devices", "2", "--normalize-observations"],
}
