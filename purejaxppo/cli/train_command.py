"""`purejaxppo train`."""

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from purejaxppo.cli.options import Argument, Settings
from purejaxppo.cli.session import run_session
from purejaxppo.cli.signals import abort_on_interrupt
from purejaxppo.config.errors import Problem
from purejaxppo.config.schema import Run
from purejaxppo.config.shipped import shipped_configs, tuned_config
from purejaxppo.config.toml import from_tables, name_source, parse_tables, read_text
from purejaxppo.devices.compile_cache import use_compile_cache
from purejaxppo.training.run_folder import claim_folder, folder_problems
from purejaxppo.training.runs import build, settings_without_effect


@dataclass(frozen=True)
class Train:
    """Train an agent and keep its policy, metrics and learning curve in a run folder.

    CONFIG is a TOML file, one of the names that `purejaxppo configs` lists, or the id of an environment, which is
    trained with its tuned settings if there are some. Options replace settings of the file. The last part of a name is
    enough: --num-envs 64. Parameters of the environment are options too: --env-params.max-steps-in-episode 200.
    """

    settings: Annotated[str, Argument("CONFIG")]  # TOML file, name of a shipped config, or id of an environment
    out: Path | None = None  # run folder, new or empty; default: runs/<env>-<seed>-<time>
    fast_flags: bool = False  # compiler passes that XLA leaves off; faster, but XLA aborts on some programs
    changes: Annotated[Mapping[str, Any], Settings] = field(default_factory=dict)  # tables of a TOML file


def run_train(args: Train, problems: Sequence[Problem]) -> int:
    """Check everything, train, evaluate, and fill a run folder."""
    text, source = find_settings(args.settings)
    run, found = from_tables(overlay(parse_tables(text, source), args.changes))
    problems = [*found, *problems, *folder_problems(args.out)]
    print(f"settings: {source}\nloading JAX and {run.env}", flush=True)
    from purejaxppo.training.memory import check_memory

    with abort_on_interrupt():
        _prepare_cpu(run, args.fast_flags)
        algo = build(run, problems, name_source(source, text))
        check_memory(run, algo)
    if ignored := settings_without_effect(run, algo):
        listed = "\n".join(f"  {line}" for line in ignored)
        print(f"purejaxppo: warning: settings without effect\n{listed}", file=sys.stderr)
    folder = claim_folder(args.out, run)
    use_compile_cache()
    gc.freeze()  # otherwise each collection during tracing scans all of JAX, a fifth of the time of tracing
    return run_session(run, algo, folder)


def find_settings(name: str) -> tuple[str, str]:
    """Return the settings that an argument CONFIG names, as (text of a TOML file, where it comes from).

    Raises:
        ConfigError: the file cannot be read.
    """
    if not name:
        return "", "train"
    if name.endswith(".toml") or "\0" in name or Path(name).is_file():
        return read_text(name), name
    shipped = shipped_configs()
    if name in shipped:
        return read_text(shipped[name]), str(shipped[name])
    file = tuned_config(name)
    if file is None:
        return f"env = {_quoted(name)}", f"{name} (default settings)"
    text = read_text(file)
    own = parse_tables(text)["env"]
    return text.replace(f'env = "{own}"', f"env = {_quoted(name)}", 1), str(file)


def _quoted(text: str) -> str:
    """Return a text as a TOML string."""
    import tomli_w

    return tomli_w.dumps({"x": text}).partition("= ")[2].strip()


def overlay(file: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file with those of the options laid over them, key by key."""
    joined = dict(file)
    for name, value in options.items():
        both = isinstance(value, dict) and isinstance(joined.get(name), dict)
        joined[name] = {**joined[name], **value} if both else value
    return joined


def default_run(name: str, changes: Mapping[str, Any]) -> Run:
    """Return the settings that `--help` shows as defaults: those of CONFIG, with `changes` laid over them.

    Raises:
        ConfigError: the file cannot be read.
    """
    text, source = find_settings(name)
    return from_tables(overlay(parse_tables(text, source), changes))[0]


def _prepare_cpu(run: Run, fast_flags: bool) -> None:
    """Configure JAX and XLA for the size of the run. Invalid settings are reported later, by `build`."""
    from purejaxppo.devices.cpu import prepare_cpu

    fast = True if fast_flags else None
    try:
        num_seeds = 1 if run.config.num_devices <= 1 else None
        prepare_cpu(run.config.timesteps_per_update // run.config.num_minibatches, num_seeds, fast)
    except (TypeError, ZeroDivisionError):
        prepare_cpu(fast_flags=fast)
