"""`purejaxppo evaluate`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument, Interval
from purejaxppo.cli.trained_policy import find_policy, open_policy
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import parse_toml
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.results import EVALUATION_EPISODES, evaluate_policy, evaluation_line
from purejaxppo.training.run_folder import BEST_FILE, CONFIG_FILE, POLICY_FILE


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with a trained policy and print statistics of their returns.

    RUN is a run folder or a policy file. The policy file contains the settings that it was trained with, so nothing
    else is needed.
    """

    run: Annotated[Path, Argument("RUN")]  # folder that `purejaxppo train` made, or its policy.safetensors
    num_episodes: Annotated[int, Interval("[1, 1000000]")] = EVALUATION_EPISODES  # first episodes of new environments
    seed: Annotated[int, Interval("[0, 4294967295]")] = 0  # seed of the evaluation
    best: bool = False  # of a run folder, the best policy that `train --evaluate-every` found; otherwise the last one
    sampled: bool = False  # sample actions from the policy; otherwise take the most likely ones


def run_evaluate(args: Evaluate, problems: Sequence[Problem]) -> int:
    """Play whole episodes with the policy of a run and print statistics of their returns."""
    file = find_policy(args.run, args.best, problems, "evaluate")
    run, algo, policy = open_policy(file)
    _note_differences(run, file)
    use_compile_cache()
    name = "sampled" if args.sampled else "greedy"
    evaluation = evaluate_policy(algo, policy, args.seed, args.num_episodes, not args.sampled)
    print(f"{run.env}: {evaluation_line(name, evaluation)}")
    return FINISHED


def _note_differences(trained: Run, file: Path) -> None:
    """Warn that a config.toml next to the policy is not used if it differs in settings that a policy depends on."""
    beside = file.parent / CONFIG_FILE
    if file.name not in (POLICY_FILE, BEST_FILE) or not beside.is_file():
        return
    try:
        run, _ = parse_toml(beside.read_text(encoding="utf-8-sig"))
    except (ConfigError, ValueError, OSError):
        return
    before, now = _relevant(trained), _relevant(run)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        listed = "\n".join(f"  {name} = {now.get(name)!r}: the policy has {before.get(name)!r}" for name in names)
        print(
            f"purejaxppo: warning: {beside} differs from the settings in the policy file, which are used",
            file=sys.stderr,
        )
        print(listed, file=sys.stderr)


def _relevant(run: Run) -> dict[str, Any]:
    """Return the settings that a policy depends on, by dotted key."""
    network = {f"network.{name}": value for name, value in vars(run.network).items()}
    params = {f"env_params.{name}": value for name, value in run.env_params.items()}
    return {"env": run.env, "config.normalize_observations": run.config.normalize_observations} | network | params
