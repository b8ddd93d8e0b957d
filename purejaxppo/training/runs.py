"""Build a run from its settings, and keep its results in a run folder."""

import math
import os
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo._util.version import __version__
from purejaxppo.config.checks import check
from purejaxppo.config.errors import Problem, UsageError
from purejaxppo.config.schema import Config, Run
from purejaxppo.config.toml import dump_toml

EVALUATION_EPISODES = 128


def build(run: Run, problems: Iterable[Problem] = (), source: str = "") -> Any:
    """Return the Algorithm of `run`, everything checked; nothing is compiled yet.

    Raises:
        ConfigError: with all problems at once, those of the environment and of the network included.
    """
    from purejaxppo.assembly import make_ppo
    from purejaxppo.envs.registry import make
    from purejaxppo.networks.actor_critic import make_network

    problems, env, network = list(problems), None, None
    try:
        env = make(run.env, **run.env_params)
    except (ValueError, TypeError) as error:
        problems.append(Problem("env", f": {error}", "environment"))
    if env is not None and not any(problem.key.startswith("network") for problem in problems):
        try:
            network = make_network(env, run.network)
        except (ValueError, TypeError) as error:
            problems.append(Problem("network", f": {error}", "network"))
    problems += _device_problems(run.config)
    check(run, problems, source)
    return make_ppo(env, network, run.config)


def _device_problems(config: Config) -> list[Problem]:
    """More devices than JAX sees."""
    import jax

    if not isinstance(config.num_devices, int) or config.num_devices <= jax.local_device_count():
        return []
    text = f" = {config.num_devices}: JAX sees {jax.local_device_count()} ({jax.devices()[0].platform})"
    return [Problem("config.num_devices", f"{text}; nearest valid value: {jax.local_device_count()}", "range")]


def folder_problems(out: Path | None) -> list[Problem]:
    """List what makes `out` unusable as a run folder."""
    try:
        if out is None or not out.exists():
            return [] if out is None else _parent_problems(out)
        if not out.is_dir():
            return [Problem("--out", f" {out}: is a file, not a folder", "file")]
        held = {entry.name for entry in out.iterdir()}
    except OSError as error:
        return [Problem("--out", f" {out}: cannot be used: {error.strerror}", "file")]
    if held & {"config.toml", "metrics.csv", "policy.safetensors"}:
        return [Problem("--out", f" {out}: holds another run; name a new or empty folder", "file")]
    return [Problem("--out", f" {out}: is not empty; name a new or empty folder", "file")] if held else []


def _parent_problems(out: Path) -> list[Problem]:
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        return []
    what = "cannot be written to" if parent.is_dir() else "is a file, not a folder"
    return [Problem("--out", f" {out}: {parent} {what}", "file")]


def claim_folder(out: Path | None, run: Run) -> Path:
    """Make the run folder and write config.toml into it; no two runs get the same one."""
    name = f"{run.env.replace('/', '-')}-{run.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = [out] if out else [Path("runs") / name, *(Path("runs") / f"{name}-{i}" for i in range(2, 100))]
    for folder in tries:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "config.toml", "x", encoding="utf-8") as file:
                file.write(dump_toml(run))
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"--out {folder}: cannot be written: {error.strerror}") from None
    raise UsageError(f"--out {tries[0]}: holds another run; name a new or empty folder")


class Outcome(NamedTuple):
    """How a training ended."""

    status: str  # finished, interrupted, diverged
    code: int
    num_updates: int
    seconds: float
    seconds_first_update: float  # most of it is compilation
    policy: Any  # the last one whose numbers were finite; None where there was none
    message: str


def is_sound(row: Any) -> bool:
    """Return whether the metrics of an update are finite."""
    return math.isfinite(row["total_loss"]) and math.isfinite(row["kl"]) and not row["masked_states"]


def divergence_message(row: Any, update: int, kept: int, run: Run, saved: bool) -> str:
    """Say what became non-finite, when, and which policy was kept."""
    policy = f"policy.safetensors is that after update {kept}" if saved else "there is no policy worth keeping"
    if row["masked_states"]:
        return (
            f"{run.env} allowed no action in {row['masked_states']:.0f} states of update {update}: its action mask "
            f"forbade all of them, which must end an episode; {policy}."
        )
    return (
        f"the loss became {row['total_loss']} in update {update} of {run.config.num_updates} "
        f"({row['timesteps']:,} env steps); {policy}. "
        "A smaller learning_rate or max_grad_norm, or scale_rewards, may help."
    )


def evaluate_policy(algo: Any, policy: Any, seed: int, num_episodes: int, greedy: bool) -> dict[str, float]:
    """Play whole episodes and return the figures of their returns and lengths."""
    import jax
    import numpy as np

    from purejaxppo.training.evaluation import evaluate as play

    key = jax.random.fold_in(jax.random.key(seed), 0xE7A1)  # apart from the keys of training
    result = play(algo, policy, key, num_episodes, greedy)
    returns, lengths = np.asarray(result.returns, np.float64), np.asarray(result.lengths, np.float64)
    figures = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "median": np.median(returns)}
    figures |= {"max": returns.max(), "mean_length": lengths.mean()}
    counts = {"episodes": len(returns), "unfinished": int((~np.asarray(result.finished)).sum())}
    return {name: float(f"{value:.7g}") for name, value in figures.items()} | counts


def evaluation_line(name: str, e: dict[str, float]) -> str:
    """Format the figures of one evaluation as a line."""
    text = f"{name + ' evaluation':<18}  return {e['mean']:.5g} ± {e['std']:.3g}  "
    text += f"({e['min']:.5g} to {e['max']:.5g}, {e['episodes']} episodes)"
    return text + (f"; {e['unfinished']} had not ended" if e["unfinished"] else "")


def write_results(folder: Path, run: Run, outcome: Outcome, evaluations: dict[str, dict[str, float]]) -> None:
    """Write summary.toml and the learning curve of a run."""
    import jax
    import tomli_w

    from purejaxppo._util.files import write_atomic
    from purejaxppo.analysis.curves import plot_curve
    from purejaxppo.tracking.csv_file import read_csv

    steps = outcome.num_updates * run.config.timesteps_per_update
    summary = {
        "status": outcome.status,
        "env": run.env,
        "seed": run.seed,
        "num_updates": outcome.num_updates,
        "timesteps": steps,
        "seconds": round(outcome.seconds, 3),
        "seconds_first_update": round(outcome.seconds_first_update, 3),
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")} | {"purejaxppo": __version__},
        "evaluation": evaluations,
    }
    write_atomic(folder / "summary.toml", tomli_w.dumps(summary))
    if outcome.num_updates:
        greedy = evaluations["greedy"]["mean"] if "greedy" in evaluations else None
        title = f"{run.env}, PPO, seed {run.seed}"
        plot_curve(folder / "curve.png", read_csv(folder / "metrics.csv"), title, greedy)
