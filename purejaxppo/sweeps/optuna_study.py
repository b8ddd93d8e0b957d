"""Optuna chooses settings in batches, and learns from their scores; its study is kept in a database."""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from purejaxppo._util.aliases import Value
from purejaxppo._util.text import hide_password
from purejaxppo.config.errors import ConfigError, Problem, UsageError
from purejaxppo.sweeps.axes import Axis
from purejaxppo.sweeps.spec import Sweep
from purejaxppo.sweeps.store import Chosen

STUDY_FILE = "study.db"  # in the results folder
RANDOM_SETTINGS = 10  # settings that are drawn at random before the sampler uses scores
OWNER = "purejaxppo sweep"  # attribute of a trial: the sweep that asked for it

Result = TypeVar("Result")
Handle: TypeAlias = Any  # an object of Optuna, which need not be installed


def import_optuna() -> ModuleType:
    """Return the module optuna, which shows no messages: its errors are raised.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna  # type: ignore[import-not-found]
    except ImportError:
        text = "method = \"optuna\" needs the extra `optuna`, which installs it: pip install 'purejaxppo[optuna]'"
        raise UsageError(text) from None
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


def expand_variables(url: str) -> str:
    """Return a URL with the values of the environment variables in place of ${NAME}.

    Raises:
        ConfigError: one of them is not set.
    """
    missing = [name for name in re.findall(r"\$\{(\w+)\}", url) if name not in os.environ]
    text = ": the environment variable {} is not set"
    if missing:
        raise ConfigError([Problem("storage", text.format(name), "missing") for name in missing], "sweep")
    return os.path.expandvars(url)


def open_storage(url: str, folder: Path) -> Handle:
    """Return the storage of a URL, in which ${NAME} stands for an environment variable; "": a file in the folder.

    Raises:
        ConfigError: it cannot be reached, or a variable is not set.
        UsageError: Optuna is not installed.
    """
    optuna = import_optuna()
    where = expand_variables(url) or f"sqlite:///{folder.resolve() / STUDY_FILE}"
    try:
        storage = optuna.storages.get_storage(where)
        storage.get_all_studies()
    except Exception as error:  # each database has its own
        text = f' = "{hide_password(url or where)}": cannot be reached: {_reason(error)}'
        raise ConfigError([Problem("storage", text, "file")], "sweep") from None
    return storage


def check_storage(url: str) -> None:
    """Check that the storage of a URL can be reached; "", the file of a results folder, needs only Optuna.

    Raises:
        ConfigError: it cannot be reached.
        UsageError: Optuna is not installed.
    """
    import_optuna()
    if url:
        open_storage(url, Path())


def _reason(error: Exception) -> str:
    """Return the first line of an error, without a password; of one that only names another, that one's."""
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return hide_password(lines[0])


class Studies:
    """The studies of a sweep: one for every combination of its list and its structure.

    The choice of a batch depends on the finished trials of the study, the seed of the sampling and the number of the
    batch, so that a sweep which goes on after a kill chooses what it would have chosen.
    """

    def __init__(self, sweep: Sweep, folder: Path, identity: str):
        """Open the storage and the studies.

        Args:
            sweep: as it was asked for.
            folder: of the results.
            identity: of the results folder; it names its own study, and marks its trials in a shared one.

        Raises:
            ConfigError: the storage cannot be reached.
        """
        self.optuna, options = import_optuna(), sweep.options
        self.sweep, self.identity, self.is_shared = sweep, identity, bool(options.storage and options.study)
        storage = open_storage(options.storage, folder)
        self.distributions = {axis.key: self._distribution(axis) for axis in sweep.axes}
        count = len(sweep.settings) // options.num_settings
        name = options.study or f"sweep-{identity or sweep.fingerprint}"
        names = [name] if count == 1 else [f"{name}-{i}" for i in range(count)]
        self.studies = self._reach(
            lambda: [
                self.optuna.create_study(storage=storage, study_name=n, direction="maximize", load_if_exists=True)
                for n in names
            ]
        )

    def study_of(self, setting: int) -> Handle:
        """Return the study of a setting."""
        return self.studies[setting // self.sweep.options.num_settings]

    def forget(self, chosen: Mapping[int, Chosen]) -> None:
        """Mark the trials as failed that this sweep asked for, and whose values were lost by a kill.

        Args:
            chosen: the values that were not lost, by setting.
        """
        for i, study in enumerate(self.studies):
            size = self.sweep.options.num_settings
            known = {c.trial for setting, c in chosen.items() if setting // size == i}
            self._reach(lambda study=study, known=known: self._forget(study, known))

    def _forget(self, study: Handle, known: set[int]) -> None:
        state = self.optuna.trial.TrialState
        for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
            own = not self.is_shared or trial.user_attrs.get(OWNER) == self.identity
            if own and trial.number not in known:
                study.tell(trial.number, state=state.FAIL)

    def ask(self, batch: int, settings: Sequence[int]) -> dict[int, Chosen]:
        """Return the values of a batch of settings.

        Args:
            batch: its number.
            settings: of the batch.

        Raises:
            UsageError: the storage is lost.
        """
        chosen: dict[int, Chosen] = {}
        for i, study in enumerate(self.studies):
            study.sampler = self._sampler(batch, i)
        for setting in settings:
            trial = self._reach(lambda setting=setting: self._ask(self.study_of(setting)))
            chosen[setting] = Chosen({key: trial.params[key] for key in self.distributions}, trial.number)
        return chosen

    def _ask(self, study: Handle) -> Handle:
        trial = study.ask(self.distributions)
        trial.set_user_attr(OWNER, self.identity)
        return trial

    def tell(self, setting: int, chosen: Chosen, score: float) -> None:
        """Tell the score of a setting; once is enough, twice does no harm.

        Args:
            setting: its number.
            chosen: of the setting.
            score: to be maximized; -inf: all of its runs failed.

        Raises:
            UsageError: the storage is lost.
        """
        state = self.optuna.trial.TrialState
        result = {"values": score} if math.isfinite(score) else {"state": state.FAIL}
        self._reach(lambda: self.study_of(setting).tell(chosen.trial, **result, skip_if_finished=True))

    def _sampler(self, batch: int, study: int) -> Handle:
        options = self.sweep.options
        # Sweeps that share a study must not draw the same random settings.
        text = f"{options.sampling_seed} {batch} {study} {self.identity if self.is_shared else ''}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        first = max(RANDOM_SETTINGS, options.batch)
        with warnings.catch_warnings():  # Optuna 4 calls `constant_liar` experimental
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)

    def _distribution(self, axis: Axis) -> Handle:
        if axis.values:
            return self.optuna.distributions.CategoricalDistribution(list(axis.values))
        return self.optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.scale == "log")

    def _reach(self, call: Callable[[], Result]) -> Result:
        """Call the storage.

        Raises:
            UsageError: it raises an error.
        """
        try:
            return call()
        except Exception as error:  # each database has its own
            text = f"storage of the study: {_reason(error)}; what is finished is kept, and `--resume` goes on with it"
            raise UsageError(text) from None


def shown_study(options: Mapping[str, Value]) -> str:
    """Return where the study of a sweep is, for the report."""
    where = hide_password(str(options["storage"])) or STUDY_FILE
    return f"{where}, study {options['study']}" if options["study"] else where
