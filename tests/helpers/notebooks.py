"""Run notebooks as a reader does: from top to bottom, in a new kernel of the Python that runs the tests."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
STRICT = {  # the strict modes of conftest.py, for the kernel
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEBUG_KEY_REUSE": "true",
}


class ThisPython(AsyncKernelManager):
    """Ignores the kernelspecs of this machine, so that "python3" is ipykernel under sys.executable."""

    def _kernel_spec_manager_default(self):
        return KernelSpecManager(kernel_dirs=[])


class Client(NotebookClient):
    """Counts in a cell's metadata how often the cell updates its display. The outputs keep only the last one."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "update_display_data":
            cell.metadata["updates"] = cell.metadata.get("updates", 0) + 1
        return super().process_message(msg, cell, cell_index)


def read(path):
    """Return the committed notebook, checked against the format."""
    notebook = nbformat.read(ROOT / path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(path, env=None, timeout=300, then=""):
    """Run a notebook and return it with its outputs.

    Args:
        path: the notebook, relative to the repository.
        env: further environment variables of the kernel, such as {"PUREJAXPPO_FAST": "1"}.
        timeout: seconds per cell.
        then: code for one more cell at the end, which can inspect the variables of the notebook.

    Raises:
        CellExecutionError: a cell failed; has its traceback.
    """
    notebook = read(path)
    notebook.cells += [nbformat.v4.new_code_cell(then)] if then else []
    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        client = Client(notebook, kernel_manager_class=ThisPython, kernel_name="python3", resources=resources)
        client.timeout = timeout
        return client.execute(env=_environment(folder, env or {}))


def _environment(folder, env):
    """Return the variables of the kernel: this checkout is importable, no IPython profile, figures are inline."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    private = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "IPYTHONDIR": folder}
    inherited = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    return inherited | STRICT | private | env


def code(notebook):
    """Return the code cells."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def is_stripped(notebook):
    """Return whether no cell has an output or a count, and the notebook no version of the last kernel."""
    ran = any(cell.outputs or cell.execution_count is not None for cell in code(notebook))
    return not ran and "version" not in notebook.metadata.get("language_info", {})


def data(cell, mime):
    """Return the outputs of a cell of one kind, such as "image/png"."""
    return [output.data[mime] for output in cell.outputs if mime in output.get("data", {})]


def text(cell):
    """Return the printed and displayed text of a cell."""
    printed = [output.text for output in cell.outputs if output.output_type == "stream"]
    return "".join(printed + data(cell, "text/plain"))


def warned(notebook):
    """Return the lines of warnings that a reader sees."""
    streams = (output for cell in code(notebook) for output in cell.outputs if output.output_type == "stream")
    lines = (line for output in streams if output.name == "stderr" for line in output.text.splitlines())
    return [line for line in lines if "Warning" in line]
