"""How often a checkpoint is saved."""

import math
import re
from typing import NamedTuple

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Interval(NamedTuple):
    """How often a checkpoint is saved; `inf` means never."""

    updates: float = math.inf
    seconds: float = math.inf
    adapts: bool = False  # seconds grow until saving takes at most SHARE of the time


DEFAULT_INTERVAL = Interval(seconds=60.0, adapts=True)


def parse_interval(text: str) -> Interval:
    """Return the interval that a text such as "500" (updates), "90s", "5m", "1h" or "off" stands for.

    Raises:
        ValueError: the text is none of these.
    """
    if text == "auto":
        return DEFAULT_INTERVAL
    if text == "off":
        return Interval()
    if re.fullmatch("[0-9]{1,10}", text) and int(text):
        return Interval(updates=int(text))
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", text)
    if match and float(match[1]):
        return Interval(seconds=float(match[1]) * UNITS[match[2]])
    raise ValueError(f"{text!r} is not an interval: write 500 for updates, 90s, 5m, 1h, auto or off")
