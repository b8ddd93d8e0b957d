"""The entry point: help, exit codes, and standard streams of any kind."""

import json
import os
import re
import subprocess

import pytest
from command_line import finish, start

from purejaxppo.cli import main as main_module
from purejaxppo.cli.commands import COMMANDS
from purejaxppo.cli.main import main
from purejaxppo.config.errors import UsageError
from purejaxppo.training.errors import OutOfMemoryError


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"purejaxppo \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["training"]) == 2
    assert "no command training; did you mean train?" in capsys.readouterr().err
    assert main(["zzz"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help(capsys, name):
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: purejaxppo {name} ")


def test_help_shows_the_defaults_of_the_file_and_imports_nothing_heavy(tiny):
    script = (
        "import sys\nfrom purejaxppo.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "print('HEAVY', [m for m in ('jax', 'gymnax', 'matplotlib', 'rich') if m in sys.modules])"
    )
    code, out, err = finish(start(["train", tiny, "--help", "--num-steps", "32"], script=("-c", script)))
    assert (code, err) == (0, "")
    assert re.search(r"--config.num-envs INT\s+N, environments that run in parallel\s+\(default: 8\)", out)
    assert re.search(r"--config.num-steps INT[^(]+\(default: 32\)", out)
    assert out.endswith("HEAVY []\n")


def test_help_of_a_file_that_cannot_be_read_shows_the_defaults(capsys, tmp_path):
    assert main(["train", str(tmp_path / "none.toml"), "--help"]) == 0
    assert "(default: 64)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("not so"), 2, "purejaxppo: error: not so\n"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (KeyboardInterrupt(), 130, "purejaxppo: aborted\n"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), 3, "out of memory"),
        (OutOfMemoryError("needs 4 GB"), 3, "needs 4 GB"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_exit_codes(monkeypatch, capfd, error, code, said):
    def fail(*_):
        raise error

    monkeypatch.setattr(main_module, "dispatch", fail)
    monkeypatch.setattr(main_module.os, "dup2", lambda *_: None)  # standard output is that of the tests
    assert main(["envs"]) == code
    assert said in capfd.readouterr().err


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(main_module, "dispatch", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["envs"])


def test_output_in_ascii_has_no_encoding_error():
    code, out, err = finish(start(["train", "--help"], {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}))
    assert (code, err) == (0, "")
    assert "discount factor ?" in out


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    """There is no traceback, and the output is discarded."""
    command = f"{json.dumps(os.sys.executable)} -m purejaxppo envs {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr


def test_a_closed_pipe_ends_a_listing_without_an_error():
    command = f"{json.dumps(os.sys.executable)} -m purejaxppo envs | head -1; true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
