"""Resume a run: find its newest good checkpoint, compare settings, and load it."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.config.checks import check
from purejaxppo.config.errors import ConfigError, Problem
from purejaxppo.config.schema import Run
from purejaxppo.config.toml import dump_toml, parse_tables, parse_toml
from purejaxppo.training.checkpoint_folder import find_checkpoint, has_checkpoints
from purejaxppo.training.checkpoints import Checkpoint, listed, load_checkpoint, plain_value, settings_of
from purejaxppo.training.errors import CheckpointError
from purejaxppo.training.manifest import MANIFEST, Manifest, read_manifest
from purejaxppo.training.run_folder import CONFIG_FILE, own_settings
from purejaxppo.training.runs import build
from purejaxppo.training.selection import Standing, read_standing
from purejaxppo.types import Algorithm, TrainState

# Fields of Config that may change when a run is resumed, as all Hyperparams may. The others change the shapes or the
# meaning of what was saved.
TUNABLE = ("total_timesteps", "num_devices", "microbatch_size")

NO_MANIFEST = Manifest(0, (), (), 0, "", {}, {}, {})  # of a run without checkpoints


class SavedRun(NamedTuple):
    """A run folder from which a run can be resumed."""

    folder: Path
    checkpoint: Path | None  # the newest one that is not damaged; None: the run was stopped before the first
    manifest: Manifest
    run: Run  # the settings, those changed when it was resumed before included
    metrics_bytes: int  # length of metrics.csv at the checkpoint
    seconds: float  # of training up to the checkpoint
    overrides: tuple[dict[str, Any], ...]  # settings that were changed, as `settle` returns them
    warnings: tuple[str, ...]  # about checkpoints that are damaged
    standing: Standing = Standing()  # of the evaluations during training


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
    used: Algorithm = build(_saved_settings(folder, manifest), (), str(folder)) if algo is None else algo
    problems = setting_problems(manifest.settings, used, tuple(overrides))
    if problems:
        raise CheckpointError(listed(f"{folder}: not a checkpoint of this algorithm", problems))
    return load_checkpoint(folder, used, manifest)


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


# ---- runs of the command line


def open_run(folder: Path) -> SavedRun:
    """Find the checkpoint from which the run in `folder` can be resumed.

    A run that was stopped before its first checkpoint is resumed from its beginning.

    Raises:
        CheckpointError: there is no run, its checkpoints are all damaged, or they are not of `purejaxppo train`.
        ConfigError, UsageError: there is no checkpoint, and the settings of the run cannot be used.
    """
    if (folder / MANIFEST).exists():
        raise CheckpointError(f"{folder}: is a checkpoint, not a run folder; name the folder of the run")
    if not has_checkpoints(folder) and (text := own_settings(folder)):
        source = str(folder / CONFIG_FILE)
        run = check(*parse_toml(text, source), source)
        return SavedRun(folder, None, NO_MANIFEST, run, 0, 0.0, (), ())
    checkpoint, damaged = find_checkpoint(folder)
    manifest = read_manifest(checkpoint)
    run = _saved_settings(checkpoint, manifest)
    details, standing = _run_details(manifest), read_standing(manifest.details)
    if details is None or standing is None:
        raise CheckpointError(f"{checkpoint}: is not a checkpoint of a run of `purejaxppo train`")
    return SavedRun(folder, checkpoint, manifest, run, *details, damaged, standing)


def _run_details(manifest: Manifest) -> tuple[int, float, tuple[dict[str, Any], ...]] | None:
    """Return the length of metrics.csv, the seconds of training and the overrides, or None if the manifest has none."""
    num_bytes, seconds, overrides = (manifest.details.get(name) for name in ("metrics_bytes", "seconds", "overrides"))
    if not isinstance(num_bytes, int) or not isinstance(seconds, int | float) or not isinstance(overrides, list):
        return None
    if not 0 <= num_bytes < 2**63 or not 0 <= seconds < math.inf or manifest.batch_shape:
        return None
    if not all(isinstance(x, dict) and isinstance(x.get("setting"), str) and "old" in x for x in overrides):
        return None
    return num_bytes, float(seconds), tuple(overrides)


def settle(saved: SavedRun, present: Run, explicit: Set[str]) -> tuple[Run, tuple[dict[str, Any], ...]]:
    """Compare the settings of a run with those that it is to be resumed with.

    Args:
        saved: the run.
        present: the settings asked for: those of a file, and of options.
        explicit: dotted names of the settings that were given as options.

    Returns:
        The settings to continue with, and all overrides of the run, each a dict with the keys update, setting, old
        and new.

    Raises:
        ConfigError: a setting differs that cannot change, or that was not given as an option.
    """
    before, after = _flat_settings(saved.run), _flat_settings(present)
    original = {override["setting"]: override["old"] for override in reversed(saved.overrides)}
    problems: list[Problem] = []
    overrides = list(saved.overrides)
    accepted = dict(before)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new or (name not in explicit and name in original and original[name] == plain_value(new)):
            continue  # config.toml keeps the setting that the run began with
        if not _is_tunable(name):
            problems.append(
                Problem(name, f" = {new!r}: it was {old!r}, and a resumed run cannot change it", "conflict")
            )
        elif name not in explicit:
            option = f"--{name.replace('_', '-')} {new}"
            problems.append(Problem(name, f" = {new!r}: it was {old!r}; to change it, pass {option}", "conflict"))
        else:
            values = {"old": plain_value(old), "new": plain_value(new)}
            overrides.append({"update": saved.manifest.num_updates, "setting": name, **values})
            accepted[name] = new
    if problems:
        raise ConfigError(problems, f"{saved.folder}")
    config = {name: accepted[f"config.{name}"] for name in TUNABLE}
    hyperparams = {name: accepted[f"hyperparams.{name}"] for name in saved.run.hyperparams._fields}
    settled = dataclasses.replace(
        saved.run,
        config=dataclasses.replace(saved.run.config, **config),
        hyperparams=saved.run.hyperparams._replace(**hyperparams),
        evaluate_every=accepted["evaluate_every"],
    )
    return settled, tuple(overrides)


def load_run(saved: SavedRun, algo: Algorithm, run: Run) -> TrainState | None:
    """Load the state from which a run is continued; None is its beginning.

    A controller begins with its setting, and afterwards only the state has it. So a setting that was changed replaces
    what the state has.

    Args:
        saved: the run.
        algo: the algorithm, built from `run`.
        run: the settings to continue with.

    Raises:
        CheckpointError: the checkpoint is not one of `algo`, was damaged meanwhile, or has parameters that are not
            finite.
    """
    if saved.checkpoint is None:
        return None
    state = load_checkpoint(saved.checkpoint, algo, saved.manifest).state
    if bad := sum(int((~np.isfinite(leaf)).sum()) for leaf in jax.tree.leaves(jax.device_get(state.params))):
        raise CheckpointError(f"{saved.checkpoint}: has {bad} parameters that are NaN or infinite")
    if run.hyperparams.beta == saved.run.hyperparams.beta:
        return state
    return state._replace(control=state.control._replace(beta=jnp.asarray(run.hyperparams.beta, jnp.float32)))


def _is_tunable(name: str) -> bool:
    table, _, key = name.partition(".")
    return name == "evaluate_every" or table == "hyperparams" or (table == "config" and key in TUNABLE)


def _flat_settings(run: Run) -> dict[str, Any]:
    """Return all settings of a run by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in parse_tables(dump_toml(run)).items():
        flat |= {f"{key}.{name}": x for name, x in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _saved_settings(folder: Path, manifest: Manifest) -> Run:
    """Return the settings of the run that a checkpoint belongs to."""
    text = manifest.details.get("run")
    if not isinstance(text, str):
        raise CheckpointError(f"{folder}: was saved without the settings of its run; pass the algorithm as well")
    try:
        run, problems = parse_toml(text, str(folder))
        return check(run, problems, str(folder))
    except ConfigError as error:
        raise CheckpointError(f"{folder}: the settings of its run cannot be used: {error}") from None
