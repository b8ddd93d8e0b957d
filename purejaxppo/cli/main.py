"""The command line: parse, dispatch, and turn errors into exit codes."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from purejaxppo._util.version import __version__
from purejaxppo.cli.bench_command import run_bench
from purejaxppo.cli.commands import Bench, Command, Envs, Evaluate, Train
from purejaxppo.cli.envs_command import run_envs
from purejaxppo.cli.evaluate_command import run_evaluate
from purejaxppo.cli.exit_codes import FAILED, FINISHED, USAGE_ERROR
from purejaxppo.cli.signals import WORKER
from purejaxppo.cli.train_command import run_train
from purejaxppo.config.errors import ConfigError, UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import from_tables, read_tables
from purejaxppo.training.runs import build, folder_problems


def _parse(argv: Sequence[str]) -> Command:
    """Parse the command line. The TOML file that it names gives the defaults of all other options."""
    # The file is nearly always the word after `train`, or one that ends in .toml; else the first pass finds it.
    words = list(argv[1:]) if argv[:1] == ["train"] else []
    names = words[:1] if words and not words[0].startswith("-") else [word for word in words if word.endswith(".toml")]
    guess = Path(names[0]) if names else None
    if guess is not None and not {"-h", "--help"} & set(argv):
        words.remove(names[0])
        _check_options(guess, words)
    args = _parse_with(argv, guess)
    return _parse_with(argv, args.file) if isinstance(args, Train) and args.file != guess else args


def _check_options(file: Path, words: Sequence[str]) -> None:
    """Raise ConfigError where an option is wrong, with all else that is: tyro would stop at the first such word."""
    from purejaxppo.cli.overrides import as_tables, overlaid

    options, problems = as_tables(words)
    out = options.pop("out", "")
    if problems or from_tables(options)[1]:
        run, found = from_tables(overlaid(read_tables(file), options))
        build(run, [*found, *problems, *folder_problems(Path(out) if out else None)], str(file))


def _parse_with(argv: Sequence[str], file: Path | None) -> Command:
    run = Run()
    if file is not None:
        with suppress(ConfigError):
            run = from_tables(read_tables(file))[0]
    settings = {"env": run.env, "seed": run.seed, "config": run.config, "network": run.network}
    default = Train(file=tyro.MISSING, hyperparams=run.hyperparams, **settings)
    run_train = Annotated[Train, tyro.conf.subcommand("train", default=default)]
    others = [Annotated[cls, tyro.conf.subcommand(cls.__name__.lower())] for cls in (Evaluate, Envs, Bench)]
    commands: Any = Union[run_train, *others]
    about = "Proximal Policy Optimization as pure JAX functions. Each command has its own --help."
    return tyro.cli(commands, args=argv, prog="purejaxppo", description=about)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 a mistake of the user, 130 stopped by Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"purejaxppo {__version__}")
        return FINISHED
    commands: dict[type, Callable[[Any], int]] = {
        Train: run_train,
        Evaluate: run_evaluate,
        Envs: run_envs,
        Bench: run_bench,
    }
    try:
        args = _parse(argv)
        code = commands[type(args)](args)
        sys.stdout.flush()  # a closed pipe is noticed here
        return _leave(code) if code > 128 else code
    except (UsageError, ConfigError) as mistake:
        print(f"purejaxppo: error: {mistake}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("purejaxppo: aborted", file=sys.stderr)
        return _leave(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read our output has seen enough, as in `purejaxppo envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes at exit
        return 128 + signal.SIGPIPE
    except OSError as error:  # such as a full disk
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:  # JAX has no class of its own for this one
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(
            f"purejaxppo: error: the device has not enough memory; fewer num_envs or num_steps help\n{error}",
            file=sys.stderr,
        )
        return FAILED


def _leave(code: int) -> int:
    """Return the exit code; but where a program still runs on the device, end the process without waiting for it."""
    if any(thread.name.startswith(WORKER) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
