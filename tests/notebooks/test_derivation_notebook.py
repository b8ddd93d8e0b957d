"""notebooks/derivation.ipynb runs at toy size, its asserts hold, it draws its figures, and it has no outputs."""

import ast
import base64
import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

import notebooks

PATH = "notebooks/derivation.ipynb"
ENV = {
    "PUREJAXPPO_FAST": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # most of the time is compilation
    "JAX_DEBUG_KEY_REUSE": "false",  # under vmap the checker counts the keys that a scan passes on as used
}
FIGURES = 6
BLUE = to_rgb("#2563a8")  # used for each figure


def test_outputs_are_stripped():
    assert notebooks.is_stripped(notebooks.read(PATH))


def test_the_first_code_cell_installs_the_library_unless_it_is_there():
    first = notebooks.code(notebooks.read(PATH))[0].source
    guard, install = first.index('if importlib.util.find_spec("purejaxppo") is None:'), first.index("    %pip install")
    assert guard < install
    assert "purejaxppo" in first[install:]


def test_every_experiment_asserts_what_its_text_says():
    """Each numbered section has asserts; the test below runs them."""
    section, asserts = "0", {}
    for cell in notebooks.read(PATH).cells:
        headings = re.findall(r"^## (\d)", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else []
        section = headings[-1] if headings else section
        if cell.cell_type == "code" and "%pip" not in cell.source:
            found = sum(isinstance(node, ast.Assert) or is_assert(node) for node in ast.walk(ast.parse(cell.source)))
            asserts[section] = asserts.get(section, 0) + found
    assert set(asserts) == {str(i) for i in range(FIGURES + 1)}
    assert all(count >= 2 for count in asserts.values()), asserts


def is_assert(node):
    """np.testing.assert_...(...)"""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert_")


def images(cell):
    """Return the images [height, width, RGBA] of a cell."""
    return [imread(io.BytesIO(base64.b64decode(png))) for png in notebooks.data(cell, "image/png")]


@pytest.mark.slow
def test_it_runs_and_every_figure_cell_draws_a_figure():
    """An exception in a cell, such as a failed assert, or any text on stderr fails the test."""
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
        assert drawn.sum() > 300  # empty axes are black and gray
