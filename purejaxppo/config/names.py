"""Suggest the setting that an unknown name probably means."""

from collections.abc import Iterable, Mapping

from purejaxppo._util.text import nearest

LIKENESS = 0.6
"""Names less similar than this (difflib's ratio, 0 to 1) are not suggested."""

OTHER_NAMES = {
    "lr": "learning_rate",
    "discount": "gamma",
    "lam": "gae_lambda",
    "lambda": "gae_lambda",
    "clip_range": "clip_eps",
    "clip_coef": "clip_eps",
    "clip_range_vf": "vf_clip_eps",
    "entropy_coef": "ent_coef",
    "entropy_coeff": "ent_coef",
    "value_coef": "vf_coef",
    "n_envs": "num_envs",
    "n_steps": "num_steps",
    "unroll_length": "num_steps",
    "n_epochs": "num_epochs",
    "update_epochs": "num_epochs",
    "n_minibatches": "num_minibatches",
    "total_steps": "total_timesteps",
    "num_timesteps": "total_timesteps",
    "env_id": "env",
    "env_name": "env",
}
"""Names that other implementations of PPO use for the settings."""


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that `name` probably means, or the empty string if none is similar."""
    names = tuple(names)
    synonym = OTHER_NAMES.get(name.lower(), "")
    if synonym in names:
        return synonym
    near = nearest(name, names, cutoff=LIKENESS)
    return near[0] if near else ""


def place_of(name: str, table: str, tables: Mapping[str, Iterable[str]]) -> str:
    """Return the name of another table that has the setting `name`, or the empty string."""
    return next((other for other, names in tables.items() if other != table and name in names), "")
