"""The checkpoints of a run: which ones are kept, and which one a run resumes from.

They lie in `RUN_DIR/checkpoints`, one folder each, named by the number of updates.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from purejaxppo._util.files import sync_folder
from purejaxppo.config.schema import Hyperparams
from purejaxppo.training.checkpoints import is_checkpoint_file, save, verify_checkpoint
from purejaxppo.training.errors import CheckpointError, DamagedCheckpointError
from purejaxppo.training.manifest import MANIFEST, read_manifest
from purejaxppo.types import Algorithm, TrainState

CHECKPOINTS = "checkpoints"
NAME = re.compile(r"\d{10,}")
KEEP = 3


class Found(NamedTuple):
    """The checkpoint to resume from."""

    folder: Path
    warnings: tuple[str, ...]  # one sentence for each newer checkpoint that cannot be used


def checkpoint_path(run_dir: Path, num_updates: int) -> Path:
    """Return the folder of the checkpoint after `num_updates` updates."""
    return run_dir / CHECKPOINTS / f"{num_updates:010d}"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of all checkpoints of a run, newest first; some may be incomplete or damaged."""
    try:
        entries = list((run_dir / CHECKPOINTS).iterdir())
    except OSError:
        return []
    named = [entry for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink()]
    return sorted(named, key=lambda entry: int(entry.name), reverse=True)


def has_checkpoints(run_dir: Path) -> bool:
    """Return whether a save was ever finished in a run folder; its checkpoint may be damaged."""
    return any(os.path.lexists(folder / MANIFEST) for folder in list_checkpoints(run_dir))


def find_checkpoint(path: Path) -> Found:
    """Find the checkpoint at `path`, or the newest one of the run folder `path` of which every byte is right.

    Raises:
        CheckpointError: there is none.
    """
    if (path / MANIFEST).exists() or (path / MANIFEST).is_symlink():
        return Found(path, ())
    warnings: list[str] = []
    for folder in list_checkpoints(path):
        try:
            verify_checkpoint(folder)
            return Found(folder, tuple(f"{warning}; an older checkpoint is used" for warning in warnings))
        except DamagedCheckpointError as error:
            if (folder / MANIFEST).exists():  # else its save was interrupted, and the one before is the newest
                warnings.append(str(error))
    if not path.is_dir():
        raise CheckpointError(f"{path}: {'is not a folder' if path.exists() else 'no such folder'}")
    listed = "".join(f"\n  {warning}" for warning in warnings)
    raise CheckpointError(f"{path}: holds no {'usable ' if warnings else ''}checkpoint{listed}")


def save_in_run(
    run_dir: Path,
    state: TrainState,
    hyperparams: Hyperparams,
    algo: Algorithm,
    details: Mapping[str, Any],
    keep: int = KEEP,
    best: int = 0,
) -> Path:
    """Save a checkpoint of a run, and remove those that it makes superfluous.

    The newest `keep` checkpoints stay, and that of the best policy. Older ones are removed only after the new one has
    been read back.

    Args:
        run_dir: the run folder.
        state: the state of the run.
        hyperparams: its hyperparameters.
        algo: its algorithm.
        details: JSON values for the manifest.
        keep: number of checkpoints to keep, at least 1.
        best: updates of the best policy; 0: there is none.

    Returns:
        The folder of the new checkpoint.

    Raises:
        OSError: it cannot be written; the others are untouched.
    """
    folder = checkpoint_path(run_dir, int(state.num_updates))
    try:
        save(folder, state, hyperparams, algo=algo, details=details)
    except BaseException:
        if not (folder / MANIFEST).exists():
            remove_checkpoint(folder)
        raise
    remove_superfluous(run_dir, keep, best)
    return folder


def remove_superfluous(run_dir: Path, keep: int, best: int) -> None:
    """Remove all but the newest `keep` checkpoints and the one after `best` updates."""
    kept: list[Path] = []
    folders = list_checkpoints(run_dir)
    for folder in folders:
        with suppress(DamagedCheckpointError):
            read_manifest(folder)
            kept += [folder] if len(kept) < keep or (best and int(folder.name) == best) else []
    for folder in folders:
        if folder not in kept:
            remove_checkpoint(folder)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, its manifest first: what is left after a crash is no checkpoint. Other files stay."""
    with suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)
        sync_folder(folder)
        for entry in folder.iterdir():
            if is_checkpoint_file(entry.name):
                entry.unlink()
        folder.rmdir()
