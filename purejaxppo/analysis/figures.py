"""Create and save figures without a display."""

import io
from pathlib import Path
from typing import Any


def new_figure(height: float, title: str) -> Any:
    """An empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, fontweight="bold")
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write it as PNG; an old file is replaced in one step."""
    from purejaxppo._util.files import write_atomic

    data = io.BytesIO()
    figure.savefig(data, format="png")
    write_atomic(path, data.getvalue())
