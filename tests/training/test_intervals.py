"""Intervals between checkpoints are read from short texts."""

import pytest

from purejaxppo.training.intervals import DEFAULT_INTERVAL, Interval, parse_interval


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", Interval(updates=500)),
        ("90s", Interval(seconds=90)),
        ("0.5m", Interval(seconds=30)),
        ("2h", Interval(seconds=7200)),
        ("off", Interval()),
        ("auto", DEFAULT_INTERVAL),
    ],
)
def test_intervals(text, interval):
    assert parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "0", "-1", "0s", "5 m", "5d", "1e3", "nan", "inf", "1.5", "s", "9" * 30])
def test_invalid_intervals_are_refused(text):
    with pytest.raises(ValueError, match="write 500 for updates"):
        parse_interval(text)
