"""The policy of a run folder or of a file, with the settings that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from purejaxppo.config.errors import ConfigError, Problem, UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import name_source, parse_toml
from purejaxppo.training.run_folder import BEST_FILE, CONFIG_FILE, POLICY_FILE
from purejaxppo.training.runs import build

if TYPE_CHECKING:
    from purejaxppo.training.policy_file import Policy
    from purejaxppo.types import Algorithm


def policy_file(run: Path, best: bool) -> Path:
    """Return the policy file that `run`, a folder or a file, means."""
    return run if run.is_file() else run / (BEST_FILE if best else POLICY_FILE)


def file_problems(run: Path, best: bool) -> list[Problem]:
    """Return the problem of the policy file."""
    file = policy_file(run, best)
    if best and run.is_file():
        return [Problem("--best", ": needs a run folder; RUN is a file", "conflict")]
    if file.is_file():
        return []
    is_run = best and (run / CONFIG_FILE).is_file()
    text = ": no best policy; train with --evaluate-every" if is_run else ": no such file"
    return [Problem(str(file), text, "file")]


def find_policy(run: Path, best: bool, problems: Sequence[Problem], command: str) -> Path:
    """Return the policy file that `run`, a folder or a file, means.

    Args:
        run: the folder or file.
        best: whether the best policy of a folder is meant.
        problems: of the command line.
        command: the name of the command, for the error.

    Raises:
        ConfigError: the command line has problems or the file is missing; lists all.
    """
    is_run_known = all(problem.key != "RUN" for problem in problems)
    problems = [*problems, *(file_problems(run, best) if is_run_known else [])]
    if problems:
        raise ConfigError(problems, command)
    return policy_file(run, best)


def read_settings(file: Path) -> tuple[Run, list[Problem], str]:
    """Return the settings in a policy file, their problems, and what to call them in messages.

    Raises:
        UsageError: the file is damaged, or contains no settings.
    """
    from purejaxppo.training.policy_file import CheckpointError, read_metadata

    try:
        text = read_metadata(file).get("config", "")
    except CheckpointError as error:
        raise UsageError(str(error)) from None
    if not text:
        raise UsageError(f"{file} does not contain the settings that it was trained with")
    run, found = parse_toml(text, str(file))
    return run, found, name_source(str(file), text)


def open_policy(file: Path) -> tuple[Run, Algorithm, Policy]:
    """Return settings, algorithm and policy of a policy file.

    Raises:
        UsageError: the file is damaged, contains no settings, or does not fit them.
        ConfigError: the settings cannot be used.
    """
    from purejaxppo.training.evaluation_memory import check_evaluation_memory
    from purejaxppo.training.policy_file import CheckpointError, load_policy

    run, found, source = read_settings(file)
    try:
        algo = build(run, found, source)
        check_evaluation_memory(algo)
        return run, algo, load_policy(file, algo)
    except CheckpointError as error:
        raise UsageError(str(error)) from None
