"""The entry point: parse, run one command, convert errors to exit codes."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from purejaxppo._util.version import __version__
from purejaxppo.cli.commands import COMMANDS
from purejaxppo.cli.exit_codes import FAILED, FINISHED, OUT_OF_MEMORY, USAGE_ERROR
from purejaxppo.cli.help_text import command_help, general_help
from purejaxppo.cli.options import Command, build_options, options_of
from purejaxppo.cli.parser import parse
from purejaxppo.cli.run_settings import default_run
from purejaxppo.cli.signals import background_runs
from purejaxppo.cli.streams import prepare_streams
from purejaxppo.config.errors import ConfigError, UsageError
from purejaxppo.config.names import suggestion
from purejaxppo.training.errors import CheckpointError, OutOfMemoryError

ABOUT = "Proximal Policy Optimization as pure JAX functions."

HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the words of the command line after the program's name; None: those of the process.

    Returns:
        0 if the command succeeded, 1 if it failed, 2 for an error that the user can correct, 3 if the device has too
        little memory, and 128 + the number of the signal for a command that a signal stopped.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    return _with_exit_code(lambda: dispatch(argv))


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that the words of a command line name, and return its exit code.

    Raises:
        UsageError: there is no such command, or it cannot do what it is asked for.
        ConfigError: with every problem of the options and settings.
    """
    name, words = (argv[0], list(argv[1:])) if argv else ("", [])
    if name == "--version":
        print(f"purejaxppo {__version__}")
        return FINISHED
    if not name or name in HELP:
        print(general_help([(name, command.options.__doc__ or "") for name, command in COMMANDS.items()], ABOUT))
        return FINISHED if name else USAGE_ERROR
    if name not in COMMANDS:
        near = suggestion(name, COMMANDS)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"no command {name}{hint} (one of {', '.join(COMMANDS)})")
    command = COMMANDS[name]
    if set(words) & set(HELP):
        print(_help(name, command, [word for word in words if word not in HELP]))
        return FINISHED
    parsed = parse(words, options_of(command.options))
    values = parsed.values | ({"changes": parsed.settings} if parsed.settings else {})
    return command.run(build_options(command.options, values), parsed.problems)


def _help(name: str, command: Command, words: list[str]) -> str:
    """Return the help of a command; the settings that the words give are the defaults."""
    run = None
    options = options_of(command.options)
    if any(option.is_setting for option in options):
        parsed = parse(words, options)
        with suppress(ConfigError):
            run = default_run(parsed.values.get("settings", ""), parsed.settings)
    return command_help(name, command.options.__doc__ or "", options_of(command.options, run))


def _with_exit_code(run: Callable[[], int]) -> int:
    """Run a command; print its error, if any, as one message and return the exit code."""
    try:
        code = run()
        sys.stdout.flush()  # raises BrokenPipeError if the reader has gone
        return _leave(code) if code != FINISHED else code
    except (UsageError, ConfigError, CheckpointError) as error:
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt as error:  # its argument is the signal that came first
        print("purejaxppo: aborted", file=sys.stderr)
        return _leave(128 + (error.args[0] if error.args else signal.SIGINT))
    except BrokenPipeError:  # as in `purejaxppo envs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python complains when it flushes at exit
        return 128 + signal.SIGPIPE
    except OSError as error:  # such as a full disk
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return FAILED
    except OutOfMemoryError as error:
        print(f"purejaxppo: error: {error}", file=sys.stderr)
        return OUT_OF_MEMORY
    except RuntimeError as error:  # JAX has no separate class for this one
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        advice = "the device is out of memory; fewer num_envs or num_steps, or fewer episodes, need less"
        print(f"purejaxppo: error: {advice}\n{error}", file=sys.stderr)
        return OUT_OF_MEMORY


def _leave(code: int) -> int:
    """Return the exit code, or end the process at once if a background thread still computes."""
    if background_runs():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
