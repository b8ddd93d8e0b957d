"""Text helpers: name suggestions, short forms of numbers, passwords in URLs."""

import difflib
import math
import re
from collections.abc import Iterable

PASSWORD = re.compile(r"(://[^:/@\s]*:)(\S+)(?=@)|([?&]password=)([^&\s]+)")


def nearest(name: str, names: Iterable[str], n: int = 1, cutoff: float = 0.0) -> list[str]:
    """Return up to `n` of `names` that look most like `name`, best first; letter case does not count.

    Names whose likeness (difflib's ratio, 0 to 1) is below `cutoff` are left out.
    """
    lowered = {candidate.lower(): candidate for candidate in names}
    return [lowered[low] for low in difflib.get_close_matches(name.lower(), lowered, n=n, cutoff=cutoff)]


def short(count: float) -> str:
    """Write a count as people say it: 950, 12.3k, 500k, 1.05M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= factor * 0.9995:
            return f"{count / factor:.3g}{letter}" if abs(count) < factor * 999.5 else f"{count / factor:.0f}{letter}"
    return f"{count:.0f}"


def duration(seconds: float) -> str:
    """Write a duration as 0:07, 12:34 or 3:05:00; a dash where it is not known."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def brief(seconds: float) -> str:
    """Write a short time with three digits: 1.44 s, 5.3 ms, 850 µs."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit * 0.9995:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


def passwords(url: str) -> list[str]:
    """Return the passwords in a URL: name:password@host, or ?password=..."""
    return [match[2] or match[4] for match in PASSWORD.finditer(url)]


def hide_password(text: str) -> str:
    """Return a text with *** in place of the passwords in its URLs."""
    return PASSWORD.sub(lambda match: f"{match[1] or match[3]}***", text)
