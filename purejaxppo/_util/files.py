"""Write files so that a crash leaves the old or the new content."""

import os
from pathlib import Path


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` under `path` so that the file is there whole or, after a crash, as it was before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
