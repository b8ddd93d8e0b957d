"""Create and save figures without a display."""

import io
from pathlib import Path
from typing import Any

from purejaxppo._util.files import write_atomic


def new_figure(height: float, title: str) -> Any:
    """Return an empty matplotlib figure, 11 by `height` inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write the figure as PNG, replacing the file atomically."""
    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomic(path, data.getvalue())
