"""The results folder of a sweep: what was asked for, the finished pieces, and the state of the piece that runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo._util.aliases import PyTree, Shapes, Tables, Value
from purejaxppo._util.files import write_atomic
from purejaxppo.config.errors import ConfigError, Problem, UsageError
from purejaxppo.sweeps.spec import Sweep, from_json, to_json, with_values
from purejaxppo.training.arguments import is_key
from purejaxppo.training.described_arrays import read_arrays, write_arrays
from purejaxppo.training.errors import CheckpointError

SWEEP_FILE = "sweep.json"
CHOSEN_FILE = "chosen.json"
PIECES = "pieces"
RUNNING = "running"
POLICIES = "policies"
SETTINGS = "settings"


class Piece(NamedTuple):
    """The results of some trials between two evaluation points."""

    trials: tuple[tuple[int, int], ...]  # (setting, seed)
    columns: dict[str, np.ndarray]  # [R, points of the piece] each
    failed: np.ndarray  # [R] update of the first fault, counted from 1; 0: healthy
    states: dict[str, np.ndarray]  # leaves [R, ...] by name; {} if they are not needed any more
    score: np.ndarray  # [R] of the evaluation; NaN if there was none
    seconds: float = 0.0


def create_folder(folder: Path, sweep: Sweep, about: Tables) -> None:
    """Make a results folder and write what the sweep is.

    Raises:
        ConfigError: the folder holds a sweep already, or something else.
    """
    existing = folder / SWEEP_FILE
    if existing.exists():
        same = read_plan(folder)[0].fingerprint == sweep.fingerprint
        text = (
            f"holds this sweep; `purejaxppo sweep --resume {folder}` goes on with it"
            if same
            else ("holds the results of another sweep; name a new or empty folder")
        )
        raise ConfigError([Problem("--out", f" {folder}: {text}", "file")], "sweep")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Problem("--out", f" {folder}: is not an empty folder", "file")], "sweep")
    for name in (folder, folder / PIECES, folder / POLICIES, folder / SETTINGS):
        name.mkdir(parents=True, exist_ok=True)
    write_about(folder, sweep, about)


def write_about(folder: Path, sweep: Sweep, about: Tables) -> None:
    """Write the sweep and how it is executed."""
    write_atomic(folder / SWEEP_FILE, json.dumps({"sweep": to_json(sweep), "about": dict(about)}, indent=1))


def read_sweep(folder: Path) -> tuple[Sweep, dict[str, Value]]:
    """Return the sweep of a results folder with the values chosen so far, and how it is executed.

    Raises:
        UsageError: the folder has no readable sweep.
    """
    sweep, about = read_plan(folder)
    return with_values(sweep, {i: chosen.values for i, chosen in read_chosen(folder).items()}), about


def read_plan(folder: Path) -> tuple[Sweep, dict[str, Value]]:
    """Return the sweep of a results folder as it was asked for, and how it is executed.

    Raises:
        UsageError: the folder has no readable sweep.
    """
    file = folder / SWEEP_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return from_json(data["sweep"]), data["about"]
    except FileNotFoundError:
        raise UsageError(f"{folder}: not a results folder of a sweep; it has no {SWEEP_FILE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None


class Chosen(NamedTuple):
    """The values that a search chose for one setting."""

    values: dict[str, Value]  # by dotted key
    trial: int  # number in the study


def write_chosen(folder: Path, chosen: Mapping[int, Chosen]) -> None:
    """Write the values that a search has chosen, by setting."""
    write_atomic(folder / CHOSEN_FILE, json.dumps({i: c._asdict() for i, c in chosen.items()}, indent=1))


def read_chosen(folder: Path) -> dict[int, Chosen]:
    """Return the values that a search has chosen, by setting; {} if there is none.

    Raises:
        UsageError: the file cannot be read.
    """
    file = folder / CHOSEN_FILE
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return {int(i): Chosen(**entry) for i, entry in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None


# ---- pieces


def write_piece(folder: Path, name: str, piece: Piece) -> None:
    """Write the results of a piece, replacing the file in one step."""
    arrays = {f"columns/{key}": x for key, x in piece.columns.items()}
    arrays |= {f"states/{key}": x for key, x in piece.states.items()}
    arrays |= {"failed": piece.failed, "score": piece.score, "trials": np.asarray(piece.trials, np.int64)}
    write_arrays(folder / PIECES / f"{name}.safetensors", arrays, {"seconds": repr(piece.seconds)})


def read_piece(folder: Path, name: str) -> Piece | None:
    """Return the results of a piece; None if it is not finished, or its file is damaged and has to be made again."""
    try:
        arrays, texts = read_arrays(folder / PIECES / f"{name}.safetensors")
    except CheckpointError:
        return None
    groups: dict[str, dict[str, np.ndarray]] = {"columns": {}, "states": {}}
    for key, x in arrays.items():
        kind, _, rest = key.partition("/")
        if rest:
            groups[kind][rest] = x
    trials = tuple((int(setting), int(seed)) for setting, seed in arrays["trials"])
    return Piece(
        trials, groups["columns"], arrays["failed"], groups["states"], arrays["score"], float(texts["seconds"])
    )


def read_whole_piece(folder: Path, name: str) -> Piece:
    """Return the results of a piece with its states.

    Raises:
        UsageError: it is not there, its file is damaged, or its states were removed.
    """
    piece = read_piece(folder, name)
    file = folder / PIECES / f"{name}.safetensors"
    if piece is None:
        raise UsageError(f"{file}: damaged; --resume trains it again")
    if not piece.states:
        raise UsageError(f"{file}: its states were removed at the end of the sweep; start a new one")
    return piece


def drop_states(folder: Path, name: str) -> None:
    """Remove the states of a piece that no later piece needs; its results stay."""
    piece = read_piece(folder, name)
    if piece is not None and piece.states:
        write_piece(folder, name, piece._replace(states={}))


def running_name(name: str) -> str:
    """Return the name of the file that keeps a piece while it runs."""
    return f"{RUNNING}-{name}"


def remove_running(folder: Path, name: str) -> None:
    """Remove what was kept of a piece while it ran."""
    with suppress(OSError):
        (folder / PIECES / f"{running_name(name)}.safetensors").unlink(missing_ok=True)


def piece_names(folder: Path) -> list[str]:
    """Return the names of all finished pieces, in order."""
    names = [file.stem for file in (folder / PIECES).glob("*.safetensors")]
    return sorted(name for name in names if re.fullmatch(r"[a-z]+\d*-\d+-\d+", name))


# ---- states


def state_arrays(states: PyTree) -> dict[str, np.ndarray]:
    """Return the leaves of states as NumPy arrays by name; keys as their data."""
    leaves = jax.tree.leaves(states)
    return {
        f"{i:04d}": np.asarray(jax.device_get(jax.random.key_data(x) if is_key(x) else x)) for i, x in enumerate(leaves)
    }


def states_of(arrays: Mapping[str, np.ndarray], shapes: Shapes) -> PyTree:
    """Return states from the arrays of `state_arrays`.

    Args:
        arrays: leaves by name, [R, ...].
        shapes: a tree of the same structure, with the dtypes.
    """
    leaves, structure = jax.tree.flatten(shapes)
    made = []
    for i, leaf in enumerate(leaves):
        x = jnp.asarray(arrays[f"{i:04d}"])
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        made.append(jax.random.wrap_key_data(x) if key else x)
    return jax.tree.unflatten(structure, made)


def take_rows(arrays: Mapping[str, np.ndarray], rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Return some rows of every array."""
    return {name: x[np.asarray(rows, int)] for name, x in arrays.items()}
