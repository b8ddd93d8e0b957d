"""Settings that are shipped with the package: the files of the repository's folder `configs/`."""

import tomllib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

# The file to use for an environment that has several.
PREFERRED = {
    "CartPole-v1": "cartpole",
    "Pendulum-v1": "pendulum",
    "Asterix-MinAtar": "minatar_asterix_cnn",
    "Breakout-MinAtar": "minatar_breakout_cnn",
}

SWEEPS = "sweeps"  # the folder of the sweep files

# Suites whose environments need no prefix: gymnax/CartPole-v1 is CartPole-v1.
DEFAULT_SUITES = ("gymnax", "examples")


def shipped_configs() -> dict[str, Path]:
    """Return the shipped files by name, such as "cartpole", or "suites/brax_ant" for one in a subfolder."""
    return {name: file for name, file in _shipped_files().items() if not name.startswith(f"{SWEEPS}/")}


def shipped_sweeps() -> dict[str, Path]:
    """Return the shipped sweep files by name, such as "sweeps/cartpole_lr"."""
    return {name: file for name, file in _shipped_files().items() if name.startswith(f"{SWEEPS}/")}


def _shipped_files() -> dict[str, Path]:
    folder = PACKAGE / "configs"  # in a wheel
    folder = folder if folder.is_dir() else PACKAGE.parent / "configs"  # in a clone of the repository
    files = sorted(folder.rglob("*.toml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def env_of(file: Path) -> str:
    """Return the environment that a shipped file is for."""
    return tomllib.loads(file.read_text(encoding="utf-8"))["env"]


def tuned_config(env: str) -> Path | None:
    """Return the shipped file with the tuned settings of an environment; None if there is none.

    Args:
        env: id of the environment, with or without its suite.
    """
    suite, _, rest = env.partition("/")
    ids = {env, rest} if suite in DEFAULT_SUITES else {env}
    found = {name: file for name, file in shipped_configs().items() if env_of(file) in ids}
    preferred = next((PREFERRED[x] for x in ids if x in PREFERRED), None)
    return found.get(preferred or "", next(iter(found.values()), None))
