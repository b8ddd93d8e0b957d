"""notebooks/quickstart.ipynb runs at toy size, shows its figures, and is committed without outputs."""

import base64
import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

import notebooks

PATH = "notebooks/quickstart.ipynb"
ENV = {
    "PUREJAXPPO_FAST": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # most of the time is compilation
    "JAX_DEBUG_KEY_REUSE": "false",  # under vmap the checker counts the keys that a scan passes on as used
}
FACTS = """
import json, sys
print(json.dumps({
    "python": sys.executable,
    "updates": [int(state.num_updates), config.num_updates],
    "returns": {name: float(x.mean()) for name, x in policy_returns.items()},
    "seeds": list(states.num_updates.shape),
    "boat": [float(x) for x in boat_returns],
}))
"""
FIGURES = ("train", "curve", "evaluate", "seeds-plot", "sweep", "own-train")


@pytest.fixture(scope="module")
def run():
    """Return the notebook with its outputs; no cell has failed."""
    return notebooks.execute(PATH, ENV, then=FACTS)


@pytest.fixture(scope="module")
def cells(run):
    return {tag: cell for cell in notebooks.code(run) for tag in cell.metadata.get("tags", ())}


@pytest.fixture(scope="module")
def facts(run):
    return json.loads(notebooks.text(run.cells[-1]))


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip() and not line.startswith(("from ", "import "))]


def test_committed_without_outputs():
    assert notebooks.is_stripped(notebooks.read(PATH))


def test_a_reader_sees_no_warning(run):
    assert notebooks.warned(run) == []


def test_nothing_is_installed_if_the_package_is(cells, facts):
    assert "%pip install" in cells["install"].source
    assert not cells["install"].outputs
    assert facts["python"] == sys.executable


@pytest.mark.parametrize("name", FIGURES)
def test_every_promised_figure_is_there_once_and_not_empty(cells, name):
    (encoded,) = notebooks.data(cells[name], "image/png")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"))
    assert min(picture.shape) >= 250
    assert (picture < 200).mean() > 0.005  # ink


def test_no_other_cell_shows_a_figure(cells):
    assert {name for name, cell in cells.items() if notebooks.data(cell, "image/png")} == set(FIGURES)


def test_the_curve_is_redrawn_while_training(cells, facts):
    done, declared = facts["updates"]
    assert done == declared
    assert cells["train"].metadata["updates"] == -(-declared // 4)  # once per chunk of 4 updates


def test_the_episode_moves(cells):
    (shown,) = notebooks.data(cells["episode"], "text/html")
    gif = Image.open(io.BytesIO(base64.b64decode(re.search(r"data:image/gif;base64,([^\"]+)", shown)[1])))
    assert gif.format == "GIF"
    assert gif.n_frames >= 8
    frames = []
    for i in (0, 2):
        gif.seek(i)
        frames.append(np.asarray(gif.convert("L"), np.int32)[30:])  # below the titles, which count the steps
    assert (np.abs(frames[1] - frames[0]) > 50).sum() > 20


def test_even_the_toy_run_learns(facts):
    assert facts["returns"]["trained, greedy"] > 2 * facts["returns"]["untrained, sampled"]
    before, after = facts["boat"]
    assert after > before + 5
    assert facts["seeds"] == [8]


def test_as_short_as_the_text_says(cells):
    assert len(lines_of(cells["train"])) <= 10
    assert len(lines_of(cells["own-env"])) <= 15
