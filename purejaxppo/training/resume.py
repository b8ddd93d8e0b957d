"""Resume a run: find its newest good checkpoint, compare settings, and load it."""

import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from purejaxppo.config.errors import ConfigError
from purejaxppo.config.toml import parse_toml
from purejaxppo.training.checkpoint_folder import find_checkpoint
from purejaxppo.training.checkpoints import Checkpoint, listed, load_checkpoint, plain_value, settings_of
from purejaxppo.training.errors import CheckpointError
from purejaxppo.training.manifest import Manifest, read_manifest
from purejaxppo.training.runs import build
from purejaxppo.types import Algorithm

# Settings that may change when a run is resumed; all others change the shapes or the meaning of what was saved.
TUNABLE = ("total_timesteps", "num_devices", "microbatch_size")


def restore(path: str | Path, algo: Algorithm | None = None, overrides: Iterable[str] = ()) -> Checkpoint:
    """Load what `save` saved; `iterate(*restore(path))` continues the run.

    Args:
        path: the folder of a checkpoint, or a run folder: then its newest checkpoint that is not damaged.
        algo: the algorithm of the run; None builds it from the settings of a run of `purejaxppo train`.
        overrides: names of settings in which `algo` may differ from the run (`total_timesteps`, `num_devices`,
            `microbatch_size`); no other setting can change.

    Returns:
        The algorithm, the state and the hyperparameters, bitwise as they were saved.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or it is not one of `algo`; all differences are
            listed.
    """
    folder, damaged = find_checkpoint(Path(path))
    for sentence in damaged:
        warnings.warn(sentence, stacklevel=2)
    manifest = read_manifest(folder)
    if algo is None:
        algo = _build(folder, manifest)
    problems = setting_problems(manifest.settings, algo, tuple(overrides))
    if problems:
        raise CheckpointError(listed(f"{folder}: not a checkpoint of this algorithm", problems))
    return load_checkpoint(folder, algo, manifest)


def setting_problems(saved: Mapping[str, Any], algo: Algorithm, overrides: tuple[str, ...] = ()) -> list[str]:
    """List the settings in which `algo` differs from those of a checkpoint; settings that were not saved do not count.

    Args:
        saved: settings as `settings_of` returns them.
        algo: the algorithm that is to continue.
        overrides: tunable settings that may differ.
    """
    if not saved:
        return []
    unknown = [name for name in overrides if name not in TUNABLE]
    problems = [f"{name} cannot be overridden, only {', '.join(TUNABLE)}" for name in unknown]
    present = settings_of(algo)
    if saved.get("env") and present["env"] != saved["env"]:
        problems.append(f"env = {present['env']!r}: it was {saved['env']!r}")
    defaults = {field.name: plain_value(field.default) for field in dataclasses.fields(algo.config)}
    for name, value in present["config"].items():
        before = saved["config"].get(name, defaults[name])
        if value == before or name in overrides:
            continue
        hint = f' (to change it, pass overrides=("{name}",))' if name in TUNABLE else ""
        problems.append(f"config.{name} = {value!r}: it was {before!r}{hint}")
    return problems


def _build(folder: Path, manifest: Manifest) -> Algorithm:
    """Return the algorithm of a run of the command line."""
    text = manifest.details.get("run")
    if not isinstance(text, str):
        raise CheckpointError(f"{folder}: was saved without the settings of its run; pass the algorithm as well")
    try:
        run, problems = parse_toml(text)
        return build(run, problems, str(folder))
    except ConfigError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder}: the settings of its run cannot be read: {error}") from None
