"""Figures need no display and are written atomically."""

import matplotlib.image
import pytest

from purejaxppo.analysis import figures


def test_a_figure_has_the_size_and_title_that_were_asked_for(tmp_path):
    figure = figures.new_figure(3.0, "a title")
    figures.save_figure(figure, tmp_path / "x.png")
    assert matplotlib.image.imread(tmp_path / "x.png").shape[:2] == (360, 1320)
    assert figure.get_suptitle() == "a title"


def test_a_figure_that_cannot_be_drawn_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.png"
    figures.save_figure(figures.new_figure(1.0, "old"), path)
    old = path.read_bytes()
    broken = figures.new_figure(1.0, "$\\unknown{$")  # mathematics that matplotlib cannot parse
    with pytest.raises(ValueError, match="unknown"):
        figures.save_figure(broken, path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]
