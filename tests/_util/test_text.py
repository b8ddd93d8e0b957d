"""Names are suggested by likeness; numbers and times are written short and can be read back."""

import math

import numpy as np
import pytest

from purejaxppo._util.text import brief, duration, nearest, short

LOGARITHMIC = np.geomspace(1e-5, 5e10, 400).tolist()
FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


def test_nearest_names_are_the_most_similar_in_any_letter_case():
    names = ["Acrobot-v1", "CartPole-v1", "CartPolePositions-v1"]
    assert nearest("CARTPOLE-V1", names) == ["CartPole-v1"]
    assert nearest("cartpole-v1", names, n=3) == ["CartPole-v1", "CartPolePositions-v1", "Acrobot-v1"]
    assert nearest("learning_rat", ["gamma", "learning_rate", "lr"]) == ["learning_rate"]


def test_names_below_the_cutoff_are_left_out():
    """The likeness of abcd and abxy is 2 * 2 / (4 + 4)."""
    assert nearest("abcd", ["abxy"], cutoff=0.5) == ["abxy"]
    assert nearest("abcd", ["abxy"], cutoff=0.51) == []
    assert nearest("abcd", []) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (999.6, "1k"),
        (12_345, "12.3k"),
        (500_000, "500k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (1_050_000, "1.05M"),
        (-2_500, "-2.5k"),
        (5e12, "5000G"),
    ],
)
def test_a_count_is_written_as_people_say_it(count, text):
    assert short(count) == text


def test_a_count_is_right_to_three_digits():
    for count in (x for x in LOGARITHMIC if x >= 100):
        text = short(count)
        number = text.rstrip("kMG")
        assert float(number) * FACTORS[text.removeprefix(number)] == pytest.approx(count, rel=5.1e-3)
        assert len(text) <= 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7, "0:07"), (59.6, "1:00"), (754, "12:34"), (3599.7, "1:00:00"), (11_100, "3:05:00")],
)
def test_a_duration_has_hours_only_if_it_needs_them(seconds, text):
    assert duration(seconds) == text


def test_a_duration_can_be_read_back():
    for seconds in range(0, 100_000, 487):
        parts = [int(part) for part in duration(seconds).split(":")]
        assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds


@pytest.mark.parametrize("seconds", [math.nan, math.inf])
def test_a_duration_that_is_not_known_is_a_dash(seconds):
    assert duration(seconds) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.444, "1.44 s"), (0.9996, "1 s"), (0.0053, "5.3 ms"), (999.6e-6, "1 ms"), (850e-6, "850 µs"), (0, "0 µs")],
)
def test_a_short_time_has_a_unit_that_fits(seconds, text):
    assert brief(seconds) == text


def test_a_short_time_is_right_to_three_digits():
    for seconds in (x for x in LOGARITHMIC if x < 900):
        number, unit = brief(seconds).split()
        assert float(number) * UNITS[unit] == pytest.approx(seconds, rel=5.1e-3)
