"""notebooks/derivation.ipynb runs from top to bottom at toy size, every figure is drawn, no output is committed."""

import base64
import io

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import notebooks

PATH = "notebooks/derivation.ipynb"
ENV = {
    "PUREJAXPPO_FAST": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # the sizes are toys: compiling is what takes the time
    "JAX_DEBUG_KEY_REUSE": "false",  # under vmap the checker takes the move of a scan's keys for a use of them
}
FIGURES = 6
BLUE = to_rgb("#2563a8")  # each figure draws with it


def test_outputs_are_stripped():
    assert notebooks.is_stripped(notebooks.read(PATH))


def test_the_first_code_cell_installs_the_library_unless_it_is_there():
    first = notebooks.code(notebooks.read(PATH))[0].source
    guard, install = first.index('if importlib.util.find_spec("purejaxppo") is None:'), first.index("    %pip install")
    assert guard < install
    assert "purejaxppo" in first[install:]


def images(cell):
    """The images [height, width, RGBA] that a cell has put out."""
    return [imread(io.BytesIO(base64.b64decode(png))) for png in notebooks.data(cell, "image/png")]


def test_it_runs_and_every_figure_cell_draws_a_figure():
    """An exception in a cell ends the run and fails the test; so does anything a cell writes to stderr."""
    cells = notebooks.code(notebooks.execute(PATH, ENV))
    assert all(cell.execution_count for cell in cells)
    streams = [x for cell in cells for x in cell.outputs if x.output_type == "stream"]
    assert [x.text for x in streams if x.name == "stderr"] == []
    figures = [cell for cell in cells if "plt.show()" in cell.source]
    assert len(figures) == FIGURES
    for cell in figures:
        (image,) = images(cell)
        height, width, _ = image.shape
        assert width > 800
        assert height > 300
        drawn = np.all(np.abs(image[..., :3] - np.array(BLUE, np.float32)) < 0.01, axis=-1)
        assert drawn.sum() > 300  # axes alone are black and grey
