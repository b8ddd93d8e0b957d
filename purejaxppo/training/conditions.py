"""What the last digits of a run depend on besides its settings: libraries, devices and compiler flags."""

import os
from collections.abc import Mapping
from typing import Any

import jax

from purejaxppo.training.manifest import Manifest, library_versions

CONDITIONS = "conditions"  # key in the details of a manifest


def conditions() -> dict[str, str]:
    """Return the devices and the compiler flags of this process."""
    devices = jax.local_devices()
    return {"devices": f"{len(devices)} x {devices[0].device_kind}", "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def changed_conditions(manifest: Manifest) -> list[str]:
    """Return a line for each condition that is not the one under which a checkpoint was saved."""
    saved = manifest.details.get(CONDITIONS)
    before = {**manifest.versions, **(saved if isinstance(saved, Mapping) else {})}
    present: dict[str, Any] = {**library_versions(), **conditions()}
    return [
        f"{name}: {before[name]!r:.200} before, {present[name]!r} now"
        for name in present
        if name in before and before[name] != present[name]
    ]
