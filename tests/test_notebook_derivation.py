"""notebooks/derivation.ipynb runs from top to bottom, at toy size, in the interpreter that runs the tests."""

import base64
import os
import struct
import sys
from pathlib import Path

import nbclient
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "derivation.ipynb"
FIGURES = 6


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped():
    code = [cell for cell in read().cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


def test_the_first_code_cell_installs_the_library_unless_it_is_there():
    first = next(cell for cell in read().cells if cell.cell_type == "code").source
    guard, install = first.index('if importlib.util.find_spec("purejaxppo") is None:'), first.index("    %pip install")
    assert guard < install
    assert "purejaxppo" in first[install:]


def execute(tmp_path, monkeypatch):
    """The notebook with the outputs of a run in PUREJAXPPO_FAST mode."""
    # Jupyter warns of its own move to other folders unless told where to put things.
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    # Without folders to look in, the one kernel there is runs sys.executable, not what the machine calls "python3".
    specs = KernelSpecManager(kernel_dirs=[])
    assert specs.get_kernel_spec("python3").argv[0] == sys.executable
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    notebook = read()
    client = nbclient.NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    # A manager handed in keeps its kernel and its sockets unless told to clean up.
    client.execute(cleanup_kc=True, env=os.environ | {"PUREJAXPPO_FAST": "1", "JAX_PLATFORMS": "cpu"})
    return notebook


def images(cell):
    """The PNG images that a cell has put out, as bytes."""
    return [base64.b64decode(x.data["image/png"]) for x in cell.outputs if "image/png" in x.get("data", {})]


def test_it_runs_and_every_figure_cell_draws_a_figure(tmp_path, monkeypatch):
    """An exception in a cell ends the run and fails the test; so does a warning on its stderr."""
    cells = [cell for cell in execute(tmp_path, monkeypatch).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    printed = [x for cell in cells for x in cell.outputs if x.output_type == "stream" and x.name == "stderr"]
    assert printed == []
    figures = [cell for cell in cells if "plt.show()" in cell.source]
    assert len(figures) == FIGURES
    for cell in figures:
        (png,) = images(cell)
        width, height = struct.unpack(">II", png[16:24])
        assert width > 800
        assert height > 300
        assert len(png) > 20_000  # an empty set of axes is smaller
