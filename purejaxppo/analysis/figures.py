"""Create and save figures without a display."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from purejaxppo._util.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(height: float, title: str) -> Figure:
    """Return an empty matplotlib figure, 11 by `height` inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure as PNG, replacing the file atomically."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomic(path, data.getvalue())
