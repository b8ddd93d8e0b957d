"""Names of parametrized cases whose values are dicts or lists, which pytest only numbers."""

from typing import Any

LONGEST = 40  # characters


def readable(value: Any) -> str | None:
    """Return the words of a case, for `ids` of `pytest.mark.parametrize`; None leaves the name to pytest."""
    if isinstance(value, dict):
        words = [_pair(name, x) for name, x in value.items()]
    elif isinstance(value, list | tuple | set) and all(isinstance(x, str) for x in value):
        words = sorted(value) if isinstance(value, set) else list(value)
    else:
        return None
    return " ".join(words)[:LONGEST] or "none"


def _pair(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ".".join([name, *value])
    return f"{name}={value}" if isinstance(value, str | int | float) else name
