"""Folders of runs with a known level, written without training."""

import tomli_w

from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.config.toml import dump_toml


def plain_run(folder, seed, rate, level, status="finished"):
    """A run folder whose return rises from 0 to `level`."""
    folder.mkdir()
    run = Run(seed=seed, hyperparams=Hyperparams(learning_rate=rate))
    (folder / "config.toml").write_text(dump_toml(run))
    lines = ["timesteps,num_episodes,episode_return_mean,episode_return_min,episode_return_max"]
    lines += [f"{100 * i},20,{level * i / 10},{level * i / 10},{level * i / 10}" for i in range(1, 11)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    summary = {"status": status, "device": "cpu", "versions": {"jax": "0.10"}}
    summary["evaluation"] = {"greedy": {"mean": level}} if status == "finished" else {}
    (folder / "summary.toml").write_text(tomli_w.dumps(summary))
    return folder


def four_runs(folder):
    """Return two runs with learning rate 0.001, scores 10 and 12, and two with 0.01, scores 30 and 34."""
    given = [(0, 1e-3, 10.0), (1, 1e-3, 12.0), (0, 1e-2, 30.0), (1, 1e-2, 34.0)]
    return [plain_run(folder / f"run{i}", *x) for i, x in enumerate(given)]
