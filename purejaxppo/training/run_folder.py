"""The folder of a run: its files, and how a new run claims it."""

import os
import time
from pathlib import Path

from purejaxppo._util.files import open_regular
from purejaxppo.config.errors import Problem, UsageError
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml

CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.csv"
POLICY_FILE = "policy.safetensors"
BEST_FILE = "best.safetensors"
EVALUATIONS_FILE = "evaluations.csv"
CURVE_FILE = "curve.png"
SUMMARY_FILE = "summary.toml"

MAX_CONFIG_BYTES = 1 << 20

OPTION = "--out"  # names the folder on the command line


def folder_problems(out: Path | None) -> list[Problem]:
    """Return what makes `out` unusable as the folder of a new run."""
    if out is None:
        return []
    if "\0" in str(out):
        return [Problem(OPTION, f" {str(out)!r}: contains a NUL character", "file")]
    try:
        if not out.exists():
            return _parent_problems(out)
        if not out.is_dir():
            return [_problem(out, "is a file, not a folder")]
        held = {entry.name for entry in out.iterdir()}
    except OSError as error:
        return [_problem(out, f"cannot be used: {error.strerror}")]
    if held & {CONFIG_FILE, METRICS_FILE, POLICY_FILE}:
        return [_problem(out, "holds another run; name a new or empty folder")]
    return [_problem(out, "is not empty; name a new or empty folder")] if held else []


def _problem(out: Path, text: str) -> Problem:
    return Problem(OPTION, f" {out}: {text}", "file")


def _parent_problems(out: Path) -> list[Problem]:
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        return [_problem(out, f"{parent} is a file, not a folder")]
    if not os.access(parent, os.W_OK | os.X_OK):
        return [_problem(out, f"{parent} cannot be written to")]
    return []


def claim_folder(out: Path | None, run: Run) -> Path:
    """Create the folder of a run and write its settings; two runs never claim the same folder.

    Args:
        out: the folder; None: a new one under runs/.
        run: the settings, written to config.toml.

    Raises:
        UsageError: the folder cannot be created or holds another run.
    """
    name = f"{run.env.replace('/', '-')}-{run.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = [out] if out else [Path("runs") / name, *(Path("runs") / f"{name}-{i}" for i in range(2, 100))]
    text = dump_toml(run)
    for folder in tries:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / CONFIG_FILE, "x", encoding="utf-8") as file:
                file.write(text)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{OPTION} {folder}: cannot be written: {error.strerror}") from None
    raise UsageError(f"{OPTION} {tries[0]}: holds another run; name a new or empty folder")


def own_settings(folder: Path) -> str:
    """Return the text of the config.toml of a run folder, "" if there is none.

    Raises:
        UsageError: it cannot be read, or is not a small regular file.
    """
    path = folder / CONFIG_FILE
    if not os.path.lexists(path):
        return ""
    try:
        with open_regular(path, MAX_CONFIG_BYTES) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}" if error.strerror else str(error)) from None
