"""`purejaxppo doctor`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from purejaxppo.cli.exit_codes import FAILED, FINISHED
from purejaxppo.cli.options import Argument, Interval, Settings
from purejaxppo.cli.train_command import find_settings, overlay
from purejaxppo.config.errors import Problem
from purejaxppo.config.toml import from_tables, name_source, parse_tables
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.runs import build

WORDS = {True: "pass", False: "FAIL", None: "not seen"}


@dataclass(frozen=True)
class Doctor:
    """Check an environment and a network before a long run.

    CONFIG is a TOML file, one of the names that `purejaxppo configs` lists, or the id of an environment. The
    environment is played at random, and two small updates are run. Exit code 1 says that a check failed.
    """

    settings: Annotated[str, Argument("CONFIG")]  # TOML file, name of a shipped config, or id of an environment
    play_steps: Annotated[int, Interval("[1, 1000000]")] = 512  # steps of random play in each of 8 environments
    changes: Annotated[Mapping[str, Any], Settings] = field(default_factory=dict)  # tables of a TOML file


def run_doctor(args: Doctor, problems: Sequence[Problem]) -> int:
    """Check the environment and the network of a run, and print a line for each check."""
    text, source = find_settings(args.settings)
    run, found = from_tables(overlay(parse_tables(text, source), args.changes))
    algo = build(run, [*found, *problems], name_source(source, text))
    use_compile_cache()

    from purejaxppo.training.doctor.examination import doctor

    print(f"settings: {source}\nchecking {run.env}", flush=True)
    checks = doctor(algo.env, algo.network, run.config, num_steps=args.play_steps)
    for check in checks:
        print(f"  {WORDS[check.passed]:<10}{check.name}" + (f": {check.advice}" if check.advice else ""))
    count = sum(check.passed is False for check in checks)
    print(f"{count} of {len(checks)} checks failed" if count else "no check failed")
    return FAILED if count else FINISHED
