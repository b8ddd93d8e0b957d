"""`purejaxppo train`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument, Interval, Settings
from purejaxppo.cli.render_command import Render, check_renderer, run_render
from purejaxppo.cli.resume_command import Resume, run_resume
from purejaxppo.cli.run_settings import find_settings, overlay, prepare_compilation, prepare_for, read_interval
from purejaxppo.cli.session import Limits, Start, run_session
from purejaxppo.cli.signals import abort_on_interrupt
from purejaxppo.config.errors import Problem
from purejaxppo.config.toml import from_tables, name_source, parse_tables
from purejaxppo.training.run_folder import claim_folder, folder_problems
from purejaxppo.training.run_lock import lock_run
from purejaxppo.training.runs import build, settings_without_effect


@dataclass(frozen=True)
class Train:
    """Train an agent and keep its policy, metrics and learning curve in a run folder.

    CONFIG is a TOML file, one of the names that `purejaxppo configs` lists, or the id of an environment, which is
    trained with its tuned settings if there are some. Options replace settings of the file. The last part of a name is
    enough: --num-envs 64. Parameters of the environment are options too: --env-params.max-steps-in-episode 200.

    A run that was stopped, in whatever way, is continued with --resume RUN_DIR (or with `purejaxppo resume RUN_DIR`).
    CONFIG may be left out then.
    """

    settings: Annotated[str, Argument("CONFIG", unless="resume")]  # TOML file, shipped config, or id of an environment
    out: Path | None = None  # run folder, new or empty; default: runs/<env>-<seed>-<time>
    resume: Path | None = None  # folder of a run to continue
    updates: Annotated[int, Interval("[0, 2147483647]")] = 0  # updates to train before stopping; 0: to the end
    checkpoint_every: str = "auto"  # updates (500) or time (90s, 5m, 1h) between checkpoints; auto: a minute; off
    render: bool = False  # draw an episode of the policy at the end, as `purejaxppo render` does
    fast_flags: bool = False  # compiler passes that XLA leaves off; faster, but XLA aborts on some programs
    changes: Annotated[Mapping[str, Any], Settings] = field(default_factory=dict)  # tables of a TOML file


def run_train(args: Train, problems: Sequence[Problem]) -> int:
    """Check everything, train, evaluate, and fill a run folder."""
    if args.resume is not None:
        if args.out is not None:
            problems = [*problems, Problem("--out", ": --resume names the run folder already", "conflict")]
        rest = (args.updates, args.checkpoint_every, args.fast_flags, args.changes)
        code = run_resume(Resume(args.resume, *rest), problems, args.settings, args.render)
        return _render(args.resume, code) if args.render else code
    text, source = find_settings(args.settings)
    run, found = from_tables(overlay(parse_tables(text, source), args.changes))
    interval, wrong = read_interval(args.checkpoint_every)
    problems = [*found, *problems, *wrong, *folder_problems(args.out)]
    print(f"settings: {source}\nloading JAX and {run.env}", flush=True)
    from purejaxppo.training.memory import check_memory

    with abort_on_interrupt():
        prepare_for(run, args.fast_flags)
        algo = build(run, problems, name_source(source, text))
        check_memory(run, algo)
        if args.render:
            check_renderer(run.env, run.env_params)
    if ignored := settings_without_effect(run, algo):
        listed = "\n".join(f"  {line}" for line in ignored)
        print(f"purejaxppo: warning: settings without effect\n{listed}", file=sys.stderr)
    folder = claim_folder(args.out, run)
    prepare_compilation()
    with lock_run(folder):
        code = run_session(run, algo, folder, Start(), Limits(interval, args.updates))
    return _render(folder, code) if args.render else code


def _render(folder: Path, code: int) -> int:
    """Draw an episode if training has succeeded; return the exit code."""
    return run_render(Render(folder), ()) if code == FINISHED else code
