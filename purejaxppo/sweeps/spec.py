"""The specification of a sweep: what a sweep file or a command line asks for, resolved to settings and seeds."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import get_type_hints

from purejaxppo._util.aliases import Tables, Value
from purejaxppo._util.text import passwords
from purejaxppo.config.errors import Problem
from purejaxppo.config.names import suggestion
from purejaxppo.config.schema import TABLES, TOP_LEVEL, Hyperparams, Run, table_names
from purejaxppo.config.toml import from_tables
from purejaxppo.config.values import is_number, number_problems, unknown_choice, value_problems, wrong_type
from purejaxppo.sweeps.axes import METHODS, SAMPLED, Axis, combine, parse_axis

INTERVALS = {
    "seeds": "[1, 1000000]",
    "first_seed": "[0, 4000000000]",
    "test_seeds": "[0, 1000000]",
    "num_settings": "[1, 10000000]",
    "sampling_seed": "[0, 4294967295]",
    "points": "[1, 10000]",
    "episodes": "[1, 1000000]",
    "halvings": "[0, 20]",
    "keep": "[-1, 1000000]",
    "batch": "[1, 1000000]",
}
"""Options of a sweep that are integers."""

TABLE_NAMES = ("base", "axes", "structure", "settings", "generalization")
"""Tables of a sweep file; `settings` is a list of tables."""

TEXTS = ("storage", "study")
CHOOSING = ("optuna", "population")  # methods that choose values while the sweep runs
OPTIONS_OF = {"optuna": ("batch", *TEXTS), "population": ("share",)}  # of one method only

SCORES = ("final", "area")
TRACED = "traced"  # argument of an environment: names of its parameters that are data of the program
HYPERPARAMS = tuple(Hyperparams._fields)
TABLE_OF = {name: table for table, names in table_names().items() for name in names}


@dataclasses.dataclass(frozen=True)
class Options:
    """The keys at the top of a sweep file, beside `config`."""

    seeds: int = 8  # seeds of every setting
    first_seed: int = 0  # the seeds are this one and those after it
    test_seeds: int = 0  # fresh seeds with which the best setting is trained again
    method: str = "grid"  # how the axes are combined: grid, zip, random, quasi_random, optuna, population
    num_settings: int = 16  # settings of a sample, or runs of a population. Not for methods grid and zip
    sampling_seed: int = 0  # of a sample
    points: int = 20  # evaluation points of a run, equally spaced
    episodes: int = 32  # of the evaluation after training
    greedy: bool = True  # evaluate the most likely actions; false: sampled ones
    score: str = "final"  # what ranks the settings: the final evaluation, or the area under the learning curve
    halvings: int = 0  # how often the worse half of the settings is stopped: at 1/2, 1/4, ... of the run
    keep: int = 1  # trials whose policies are kept, the best ones; -1: all
    batch: int = 16  # settings that Optuna chooses at once. Method optuna only, like the next two
    storage: str = ""  # URL of the database of the study, ${NAME} from the environment; "": a file in the folder
    study: str = ""  # name of the study; sweeps with the same storage and study share it. "": one for this sweep
    share: float = 0.25  # of the runs that copy a better one after every point. Method population only


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A resolved sweep: every setting is written out."""

    base: Tables  # tables of a config file
    settings: tuple[Tables, ...]  # changes of the base by dotted key
    labels: tuple[str, ...]  # one per setting
    options: Options = Options()
    space: tuple[str, ...] = ()  # the axes as text, for the report
    axes: tuple[Axis, ...] = ()  # of methods that choose values while the sweep runs
    generalization: tuple[Axis, ...] = ()  # the environment parameter at whose values policies are evaluated

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds that every setting is trained with."""
        first = self.options.first_seed
        return tuple(range(first, first + self.options.seeds))

    @property
    def test_seeds(self) -> tuple[int, ...]:
        """Return the seeds of the test, which the selection does not see."""
        first = self.options.first_seed + self.options.seeds
        return tuple(range(first, first + self.options.test_seeds))

    @property
    def traced(self) -> tuple[str, ...]:
        """Return the dotted keys of the environment parameters that are data of the programs."""
        return traced_keys(self.base)

    @property
    def fingerprint(self) -> str:
        """Return a checksum of everything that determines the results."""
        return hashlib.sha256(json.dumps(to_json(self), sort_keys=True).encode()).hexdigest()[:16]

    def run(self, setting: int, seed: int = 0) -> Run:
        """Return the complete settings of one trial; the sweep has been checked, so they have no problems."""
        return from_tables(with_changes(self.base, {**self.settings[setting], "seed": seed}))[0]


def to_json(sweep: Sweep) -> dict[str, Value]:
    """Return a sweep as JSON data; `from_json` returns the same sweep."""
    return {
        "base": sweep.base,
        "settings": [dict(setting) for setting in sweep.settings],
        "labels": list(sweep.labels),
        "options": dataclasses.asdict(sweep.options),
        "space": list(sweep.space),
        "axes": [axis._asdict() for axis in sweep.axes],
        "generalization": [axis._asdict() for axis in sweep.generalization],
    }


def from_json(data: Tables) -> Sweep:
    """Return the sweep of JSON data."""
    axes, generalization = (
        tuple(Axis(**axis | {"values": tuple(axis["values"])}) for axis in data.get(name, ()))
        for name in ("axes", "generalization")
    )
    settings, labels, space = (tuple(data[name]) for name in ("settings", "labels", "space"))
    return Sweep(data["base"], settings, labels, Options(**data["options"]), space, axes, generalization)


def with_values(sweep: Sweep, found: Mapping[int, Tables]) -> Sweep:
    """Return the sweep with values that a search chose while it ran, by setting, laid over its settings."""
    settings, labels = list(sweep.settings), list(sweep.labels)
    for i, values in found.items():
        settings[i] = {**settings[i], **values}
        shown = [show_change(key, value) for key, value in values.items()]
        labels[i] = ", ".join([*([labels[i]] if labels[i] != "base" else []), *shown])
    return dataclasses.replace(sweep, settings=tuple(settings), labels=tuple(labels))


def with_changes(tables: Tables, changes: Tables) -> dict[str, Value]:
    """Return tables of a config file with changes by dotted key laid over them."""
    joined = dict(tables)
    for key, value in changes.items():
        table, dot, name = key.partition(".")
        if not dot:
            joined[table] = value
        elif isinstance(joined.get(table, {}), Mapping):
            joined[table] = {**joined.get(table, {}), name: value}
    return joined


def is_numeric(key: str) -> bool:
    """Return whether the values of this setting may vary within one program."""
    return key.startswith("hyperparams.")


def structure_of(setting: Tables, traced: Sequence[str] = ()) -> dict[str, Value]:
    """Return the changes of a setting that need a program for themselves.

    Args:
        setting: changes by dotted key.
        traced: environment parameters that are data of the program.
    """
    return {key: value for key, value in setting.items() if not is_numeric(key) and key not in traced}


def traced_keys(tables: Tables) -> tuple[str, ...]:
    """Return the dotted keys of the environment parameters that the tables of a config file trace."""
    env_params = tables.get("env_params", {})
    names = env_params.get(TRACED, ()) if isinstance(env_params, Mapping) else ()
    return tuple(f"env_params.{name}" for name in names) if isinstance(names, list | tuple) else ()


def _with_traced(base: Tables, axes: Sequence[Axis]) -> Tables:
    """Return the base settings, which trace the environment parameters among the axes."""
    keys = [axis.key for axis in axes if axis.key.startswith("env_params.")]
    names = [key.partition(".")[2] for key in dict.fromkeys((*traced_keys(base), *keys))]
    return with_changes(base, {f"env_params.{TRACED}": names}) if keys else base


# ---- parsing


def parse_sweep(given: Tables, base: Tables) -> tuple[Sweep, list[Problem]]:
    """Return the sweep that the tables of a sweep file describe, and its problems.

    Args:
        given: content of the file without `config`: options, and the tables base, axes, structure and settings.
        base: tables of the config file that it refers to.
    """
    options, problems = _parse_options(given)
    tables: dict[str, Value] = {name: given.get(name, {}) for name in TABLE_NAMES if name != "settings"}
    for name, table in tables.items():
        if not isinstance(table, dict):
            problems.append(wrong_type(name, table, f"a table [{name}]"))
            tables[name] = {}
    changes = flatten(tables["base"])
    problems += [evaluations_problem("base.evaluate_every")] if "evaluate_every" in changes else []
    base = with_changes(base, changes)
    is_method_known = all(problem.key != "method" for problem in problems)
    axes, found = _parse_axes(tables["axes"], options.method if is_method_known else None)
    problems += found
    base = _with_traced(base, axes)
    structure, found = _parse_structure(tables["structure"])
    problems += found
    generalization, found = _parse_generalization(tables["generalization"])
    problems += found
    problems += _twice_problems(axes, structure)
    listed, labels, found = _parse_settings(given.get("settings", [{}]))
    problems += found
    if is_method_known:
        problems += [*_axis_problems(axes, options, given), *_method_problems(axes, options, given)]
    if problems:
        return Sweep(base, ({},), ("",), options), problems
    numeric = combine(axes, options.method, options.num_settings, options.sampling_seed)
    population = f"population of {options.num_settings}" if options.method == "population" else ""
    settings, names = _join(listed, labels, structure, numeric, population)
    space = tuple(f"{axis.key}: {axis}" for axis in (*structure, *axes))
    chosen = tuple(axes) if options.method in CHOOSING else ()
    sweep = Sweep(base, settings, names, options, space, chosen, generalization)
    return sweep, _value_problems([*settings, *_ends(sweep.axes)])


def flatten(table: Tables, prefix: str = "") -> dict[str, Value]:
    """Return the entries of nested tables by dotted key; short names of settings become whole ones."""
    found: dict[str, Value] = {}
    for key, value in table.items():
        nested = not prefix and key in (*TABLES, "env_params")
        if nested and isinstance(value, Mapping):
            found |= {f"{key}.{name}": x for name, x in value.items()}
        else:
            found[full_key(key)] = value
    return found


def full_key(key: str) -> str:
    """Return the dotted key of a setting: learning_rate is hyperparams.learning_rate. Unknown keys stay as they are."""
    return f"{TABLE_OF[key]}.{key}" if key in TABLE_OF else key


def _parse_options(given: Tables) -> tuple[Options, list[Problem]]:
    """Return the options of a sweep file and the problems of its keys."""
    hints = get_type_hints(Options)
    values, problems = {}, []
    for key, value in given.items():
        if key in ("config", *TABLE_NAMES):
            continue
        if key not in hints:
            problems.append(_unknown_option(key, (*hints, "config", *TABLE_NAMES)))
            continue
        found = _option_problems(key, value)
        problems += found
        if not found:
            values[key] = value
    return Options(**values), problems


def _unknown_option(key: str, names: Iterable[str]) -> Problem:
    """Return the problem of a key that a sweep file does not have; a setting belongs in one of its tables."""
    full = full_key(key)
    if key == "evaluate_every":
        return evaluations_problem(key)
    if is_numeric(full):
        return Problem(key, ": no such key here; its values belong in [axes], a single value in [base]", "unknown")
    if full.partition(".")[0] in (*TABLES, *TOP_LEVEL, "env_params"):
        return Problem(key, ": no such key here; its values belong in [structure], a single value in [base]", "unknown")
    near = suggestion(key, names)
    return Problem(key, ": no such key" + (f"; did you mean {near}?" if near else ""), "unknown")


def evaluations_problem(key: str) -> Problem:
    """Return the problem of `evaluate_every`, which a sweep does not have."""
    return Problem(key, ": a sweep evaluates every run at its end only; leave this out", "conflict")


def _option_problems(key: str, value: Value) -> list[Problem]:
    if key in INTERVALS:
        return number_problems(key, value, int, INTERVALS[key])
    if key in TEXTS:
        return _text_problems(key, value)
    if key == "share":
        return number_problems(key, value, float, "(0, 0.5]")
    if key == "greedy":
        return [] if isinstance(value, bool) else [wrong_type(key, value, "true or false")]
    choices = METHODS if key == "method" else SCORES
    return [] if value in choices else [unknown_choice(key, value, choices)]


def _text_problems(key: str, value: Value) -> list[Problem]:
    if not isinstance(value, str):
        return [wrong_type(key, value, "a string")]
    if key != "storage" or all(re.fullmatch(r"\$\{\w+\}", password) for password in passwords(value)):
        return []
    text = (
        ": has a password, which sweep.json would keep; write ${NAME} (in single quotes in a shell) and set the "
        "environment variable NAME"
    )
    return [Problem(key, text, "conflict")]


def _parse_axes(given: Tables, method: str | None) -> tuple[list[Axis], list[Problem]]:
    axes, problems = [], []
    for key, value in flatten(given).items():
        problem = _misplaced(key)
        axis, found = (None, [problem]) if problem else parse_axis(key, value, method)
        if axis and key.startswith("env_params.") and not all(is_number(x) for x in axis.values):
            found.append(wrong_type(f"axes.{key}", value, "a list of numbers; other values belong in [structure]"))
        problems += found
        axes += [axis] if axis else []
    return axes, problems


def _twice_problems(axes: Sequence[Axis], structure: Sequence[Axis]) -> list[Problem]:
    """Return a problem for each environment parameter that is in both tables."""
    both = [axis.key for axis in axes if axis.key in {other.key for other in structure}]
    return [Problem(f"structure.{key}", ": is in [axes] too; leave it out of one of them", "conflict") for key in both]


def _misplaced(key: str) -> Problem | None:
    """Return the problem of a key in [axes] that is neither a hyperparameter nor a parameter of the environment."""
    table, _, name = key.rpartition(".")
    if (table == "hyperparams" and name in HYPERPARAMS) or (table == "env_params" and name != TRACED):
        return None
    if key == "seed":
        return Problem(key, ": not an axis; `seeds` says how many seeds each setting gets", "conflict")
    if key == "evaluate_every":
        return evaluations_problem(f"axes.{key}")
    if _is_structural(key):
        text = ": changes the compiled program and cannot vary within it; it belongs in [structure]"
        return Problem(f"axes.{key}", text, "conflict")
    near = suggestion(key.rpartition(".")[2], HYPERPARAMS)
    return Problem(f"axes.{key}", ": no such hyperparameter" + (f"; did you mean {near}?" if near else ""), "unknown")


def _is_structural(key: str) -> bool:
    """Return whether a dotted key is a setting that needs a program for each value, or a hyperparameter."""
    table, _, name = key.rpartition(".")
    return key == "env" or table == "env_params" or (table in TABLES and name in table_names()[table])


def _unknown_setting(place: str, key: str) -> Problem:
    """Return the problem of a key that is no setting.

    Args:
        place: where it stands, such as structure.
        key: the dotted key.
    """
    if key == "evaluate_every":
        return evaluations_problem(f"{place}.{key}")
    near = suggestion(key.rpartition(".")[2], TABLE_OF)
    hint = f"; did you mean {near}?" if near else ""
    return Problem(f"{place}.{key}", f": no such setting{hint}", "unknown")


def _parse_structure(given: Tables) -> tuple[list[Axis], list[Problem]]:
    axes, problems = [], []
    for key, value in flatten(given).items():
        if is_numeric(key) and key.partition(".")[2] in HYPERPARAMS:
            text = ": a hyperparameter; it belongs in [axes], where all of its values share one program"
            problems.append(Problem(f"structure.{key}", text, "conflict"))
        elif not _is_structural(key):
            problems.append(_unknown_setting("structure", key))
        else:
            axis, found = parse_axis(f"structure.{key}", value)
            problems += found
            axes += [axis._replace(key=key)] if axis else []
    return axes, problems


def _parse_generalization(given: Tables) -> tuple[tuple[Axis, ...], list[Problem]]:
    """Return the environment parameter at whose values policies are evaluated, if there is one."""
    found = flatten(given)
    wrong = [key for key in found if not key.startswith("env_params.")]
    if wrong or len(found) > 1:
        text = ": has one parameter of the environment, such as env_params.gravity = [5.0, 9.8, 15.0]"
        return (), [Problem(f"generalization.{wrong[0]}" if wrong else "generalization", text, "conflict")]
    axes, problems = [], []
    for key, value in found.items():
        axis, found_problems = parse_axis(f"generalization.{key}", value)
        problems += found_problems
        if axis and not all(is_number(x) for x in axis.values):
            problems.append(wrong_type(f"generalization.{key}", value, "a list of numbers"))
        axes += [axis._replace(key=key)] if axis else []
    return tuple(axes), problems


def _parse_settings(given: Value) -> tuple[list[dict[str, Value]], list[str], list[Problem]]:
    """Return the explicit list [[settings]]: changes by dotted key, and the name of each."""
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        return [{}], [""], [wrong_type("settings", given, "a list of tables [[settings]]")]
    if not given:
        return [{}], [""], [Problem("settings", ": an empty list; give at least one setting", "range")]
    problems, listed = [], []
    for i, entry in enumerate(given):
        changes = flatten({key: value for key, value in entry.items() if key != "name"})
        problems += [_unknown_setting(f"settings[{i}]", key) for key in changes if not _is_structural(key)]
        listed.append(changes)
    labels = [str(entry.get("name", "")) for entry in given]
    return listed, labels, problems


def _axis_problems(axes: Sequence[Axis], options: Options, given: Tables) -> list[Problem]:
    """Check what concerns all axes together."""
    problems = []
    if options.method == "zip":
        sizes = {axis.key: len(axis.values) or axis.count for axis in axes}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{key} has {size}" for key, size in sizes.items())
            problems.append(Problem("axes", f': method "zip" needs axes of one length, but {listed}', "conflict"))
    if options.method in SAMPLED and not axes and not given.get("axes"):
        problems.append(Problem("axes", f': method "{options.method}" needs at least one axis', "missing"))
    if options.method not in SAMPLED and "num_settings" in given:
        text = f': the axes of method "{options.method}" determine it; it needs method = "random"'
        problems.append(Problem("num_settings", text, "conflict"))
    return problems


def _method_problems(axes: Sequence[Axis], options: Options, given: Tables) -> list[Problem]:
    """Check the options and axes that belong to one method only."""
    problems = [
        Problem(name, f': only for method = "{method}", not "{options.method}"', "conflict")
        for method, names in OPTIONS_OF.items()
        for name in names
        if name in given and options.method != method
    ]
    if options.method in CHOOSING and options.halvings:
        text = f': method "{options.method}" runs every setting to its end; halvings go with "random" or "grid"'
        problems.append(Problem("halvings", text, "conflict"))
    if options.method != "population":
        return problems
    for axis in axes:
        if axis.key.startswith("env_params."):
            text = ": a population changes hyperparameters only; list the values in [structure]"
            problems.append(Problem(f"axes.{axis.key}", text, "conflict"))
        elif axis.values or axis.low <= 0:
            text = ": a population multiplies its values; give an interval above 0, such as {low = 1e-4, high = 1e-2}"
            problems.append(Problem(axis.key, text, "range"))
    if int(options.share * options.num_settings) < 1:
        text = f" = {options.share}: less than one of {options.num_settings} runs; give at least 1 / num_settings"
        problems.append(Problem("share", text, "range"))
    if options.score == "area":
        text = ' = "area": the score of a population is the final evaluation of its best run; leave this out'
        problems.append(Problem("score", text, "conflict"))
    if options.points < 2:
        text = f" = {options.points}: a population copies runs between two points; nearest valid value: 2"
        problems.append(Problem("points", text, "range"))
    return problems


def _join(
    listed: Sequence[Tables],
    labels: Sequence[str],
    structure: Sequence[Axis],
    numeric: Sequence[Tables],
    population: str = "",
) -> tuple[tuple[dict[str, Value], ...], tuple[str, ...]]:
    """Return every combination of the explicit list, the structural axes and the numeric settings, with its label.

    The runs of a population change their hyperparameters and have one label, which ends with `population`.
    """
    settings, names = [], []
    outer = combine(structure, "grid")
    for changes, name in zip(listed, labels, strict=True):
        for structural, numbers in itertools.product(outer, numeric):
            setting = {**changes, **structural, **numbers}
            settings.append({key: list(x) if isinstance(x, tuple) else x for key, x in setting.items()})
            own = {**structural, **numbers} if name else setting
            if population:
                own = {key: x for key, x in own.items() if key not in numbers}
            shown = [*([name] if name else []), *(show_change(k, v) for k, v in own.items())]
            names.append(", ".join([*shown, *([population] if population else [])]) or "base")
    return tuple(settings), tuple(names)


def show_change(key: str, value: Value) -> str:
    """Write one change of a setting as a label: learning_rate=0.001."""
    shown = value
    if isinstance(value, Mapping):  # an interval that episodes draw a parameter from
        shown = f"{value.get('low')} to {value.get('high')}"
    elif isinstance(value, list | float):
        shown = f"{value:.4g}" if isinstance(value, float) else "x".join(map(str, value))
    return f"{shown}" if key == "env" else f"{key.rpartition('.')[2]}={shown}"


def _ends(axes: Sequence[Axis]) -> list[Tables]:
    """Return every value of an axis that is a list, and the ends of one that is an interval."""
    return [{axis.key: value} for axis in axes for value in axis.values or (axis.low, axis.high)]


def _value_problems(settings: Sequence[Tables]) -> list[Problem]:
    """Check every value that a setting changes, each once; values of hyperparameters, also against their interval."""
    problems: list[Problem] = []
    seen: set[tuple[str, str]] = set()
    for setting in settings:
        for key, value in setting.items():
            table, _, name = key.rpartition(".")
            if (key, repr(value)) in seen or table == "env_params":
                continue
            seen.add((key, repr(value)))
            hint = str if key == "env" else get_type_hints(TABLES[table])[name]
            problems += value_problems(key, value, hint)
    return problems
