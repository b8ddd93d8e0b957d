"""notebooks/sweep.ipynb runs at toy size, shows its figures, and is committed without outputs."""

import json

import pytest

import notebooks

PATH = "notebooks/sweep.ipynb"
ENV = {
    "PUREJAXPPO_FAST": "1",
    "PUREJAXPPO_COMPILE_CACHE": "off",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # most of the time is compilation
    "JAX_DEBUG_KEY_REUSE": "false",  # under vmap the checker counts the keys that a scan passes on as used
}
FACTS = """
import json
print(json.dumps({"codes": [code, again], "trials": len(trials), "parents": population.parents.shape}))
"""


@pytest.fixture(scope="module")
def run():
    """Return the notebook with its outputs; no cell has failed."""
    return notebooks.execute(PATH, ENV, then=FACTS)


def test_committed_without_outputs():
    assert notebooks.is_stripped(notebooks.read(PATH))


@pytest.mark.slow
def test_the_sweep_its_rerun_and_the_population_are_there(run):
    facts = json.loads(notebooks.text(run.cells[-1]))
    assert facts == {"codes": [0, 0], "trials": 3 * 2 + 2, "parents": [4, 8]}


@pytest.mark.slow
def test_figures_are_shown(run):
    (cell,) = [cell for cell in notebooks.code(run) if "figures" in cell.metadata.get("tags", ())]
    assert len(notebooks.data(cell, "image/png")) == 3


@pytest.mark.slow
def test_a_reader_sees_no_warning(run):
    assert notebooks.warned(run) == []
