"""The tidy tables of a sweep: one row per trial and evaluation point, and one row per trial."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo._util.aliases import Value
from purejaxppo._util.files import write_atomic
from purejaxppo.analysis.statistics import area_under_curve
from purejaxppo.config.errors import UsageError
from purejaxppo.config.schema import Hyperparams
from purejaxppo.sweeps.points import COLUMNS
from purejaxppo.sweeps.spec import Sweep, is_numeric
from purejaxppo.sweeps.store import Piece

TABLE = "table"  # .csv or .parquet, one row per trial and evaluation point
TRIALS = "trials"  # one row per trial

Row = dict[str, Value]


def filled(curve: np.ndarray) -> np.ndarray:
    """Return a curve without gaps: a point in which no episode finished has the value of the point before it.

    Points before the first finished episode have the value of the first one; without any, all stay NaN.
    """
    known = np.isfinite(curve)
    if not known.any():
        return curve
    last = np.maximum.accumulate(np.where(known, np.arange(len(curve)), -1))
    return curve[np.where(last < 0, int(np.argmax(known)), last)]


def trial_rows(sweep: Sweep, pieces: Mapping[str, Piece]) -> tuple[list[Row], list[Row], list[tuple[str, int]]]:
    """Return the rows of both tables, and where each trial's last piece is.

    Args:
        sweep: the specification.
        pieces: all finished pieces by name, in order.

    Returns:
        Rows per trial and point, rows per trial, and (piece, row) per trial. Trials are numbered in the order of their
        settings and seeds, those of the test behind those of the selection.
    """
    parts: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
    for name, piece in pieces.items():
        part = "test" if name.startswith("test") else "selection"
        for row, (setting, seed) in enumerate(piece.trials):
            parts.setdefault((part, setting, seed), []).append((name, row))
    table, trials, places = [], [], []
    for number, (key, where) in enumerate(sorted(parts.items())):
        points, summary = _rows_of_trial(sweep, number, key, [(pieces[name], row) for name, row in sorted(where)])
        table += points
        trials.append(summary)
        places.append(sorted(where)[-1])
    return table, trials, places


def _rows_of_trial(
    sweep: Sweep, number: int, key: tuple[str, int, int], parts: Sequence[tuple[Piece, int]]
) -> tuple[list[Row], Row]:
    part, setting, seed = key
    run = sweep.run(setting, seed)
    failed = next((int(piece.failed[row]) for piece, row in parts if piece.failed[row]), 0)
    piece, row = parts[-1]
    names = (*COLUMNS, *(name for name in piece.columns if name not in COLUMNS))
    columns = {name: np.concatenate([p.columns[name][r] for p, r in parts]) for name in names}
    changing = {name.rpartition("/")[2]: x for name, x in columns.items() if name not in COLUMNS}
    whole = columns["timesteps"][-1] >= run.config.num_updates * run.config.timesteps_per_update
    status = "failed" if failed else "finished" if whole else "stopped"
    place = {"trial": number, "part": part, "setting": setting, "label": sweep.labels[setting], "env": run.env}
    place |= {"seed": seed}
    values = {key: x for key, x in sweep.settings[setting].items() if not is_numeric(key) and key != "env"}
    values |= {name: float(np.float32(x)) for name, x in zip(Hyperparams._fields, run.hyperparams, strict=True)}
    shown = {key: "x".join(map(str, x)) if isinstance(x, list) else x for key, x in values.items()}
    area = float(area_under_curve(columns["timesteps"], filled(columns["return"]))) if not failed else math.nan
    summary = place | {"status": status, "failed_update": failed, "score": float(piece.score[row]), "area": area}
    points = []
    for i in range(len(columns["timesteps"])):
        # After a fault the numbers of a run mean nothing.
        bad = failed and columns["timesteps"][i] >= failed * run.config.timesteps_per_update
        numbers = {name: math.nan if bad and name != "timesteps" else float(columns[name][i]) for name in COLUMNS}
        own = {name: float(np.float32(x[i])) for name, x in changing.items()}
        points.append(place | {"status": status, "point": i} | numbers | shown | own)
    ends = {name: points[-1][name] for name in changing}
    return points, summary | {"timesteps": float(columns["timesteps"][-1])} | shown | ends


def write_tables(folder: Path, rows: Mapping[str, Sequence[Row]], parquet: bool = False) -> list[Path]:
    """Write tables by name as CSV, or as Parquet.

    Raises:
        UsageError: Parquet is asked for and pyarrow is not installed.
    """
    written = []
    for name, table in rows.items():
        header = list(dict.fromkeys(key for row in table for key in row))
        file = folder / f"{name}.csv"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_shown(row.get(key, "")) for key in header] for row in table)
        write_atomic(file, text.getvalue())
        written.append(file)
        if parquet:
            written.append(_write_parquet(folder / f"{name}.parquet", header, table))
    return written


def _write_parquet(file: Path, header: Sequence[str], table: Sequence[Row]) -> Path:
    pyarrow, parquet = import_pyarrow()
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({key: _typed([row.get(key) for row in table]) for key in header}), sink)
    write_atomic(file, sink.getvalue())
    return file


def _typed(values: Sequence[Value]) -> list[Value]:
    """Return a column whose values have one type: numbers stay numbers, values of several kinds become text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return list(values)
    kind = float if kinds <= {int, float} else str
    return [None if value is None else kind(value) for value in values]


def import_pyarrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet.

    Raises:
        UsageError: they are not installed.
    """
    try:
        import pyarrow  # type: ignore[import-not-found]
        import pyarrow.parquet  # type: ignore[import-not-found]
    except ImportError:
        text = "--parquet needs pyarrow, which the extra `parquet` installs: pip install 'purejaxppo[parquet]'"
        raise UsageError(text) from None
    return pyarrow, pyarrow.parquet


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.9g}"
    return str(value)


def read_table(file: Path) -> list[Row]:
    """Return the rows of a CSV table; numbers are floats.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with open(file, newline="", encoding="utf-8") as opened:
            return [{key: _parsed(x) for key, x in row.items()} for row in csv.DictReader(opened)]
    except (OSError, csv.Error) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None


def _parsed(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text
