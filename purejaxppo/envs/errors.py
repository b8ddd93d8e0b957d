"""Errors about environments that cannot be made, and what to install for each suite."""

from typing import NamedTuple


class EnvironmentProblem(ValueError):
    """An environment cannot be made; the message says why and what to do."""


class UnknownEnvironment(EnvironmentProblem):
    """No suite has an environment of this name; the message names similar ones, if there are any."""


class MissingSuite(EnvironmentProblem):
    """The package of a suite is not installed; the message says what to install."""


class EnvironmentUnavailable(EnvironmentProblem):
    """An environment needs something that is missing, such as a download."""


class Suite(NamedTuple):
    """What a suite needs."""

    package: str  # the package that is imported
    install: str  # the arguments of `pip install`


# The adapter of a suite is the module `suites/<name>.py`. An id without a suite is looked up in this order.
SUITES: dict[str, Suite] = {
    "gymnax": Suite("gymnax", "'gymnax>=1.0.1' six"),
    "examples": Suite("purejaxppo", "purejaxppo"),
    "pgx": Suite("pgx", "'purejaxppo[pgx]'"),
    "xland": Suite("xminigrid", "'purejaxppo[xland]'"),
    "navix": Suite("navix", "'purejaxppo[navix]'"),
    "jumanji": Suite("jumanji", "'purejaxppo[jumanji]'"),
    "craftax": Suite("craftax", "'purejaxppo[craftax]'"),
    "brax": Suite("brax", "'purejaxppo[brax]'"),
    "playground": Suite("mujoco_playground", "'purejaxppo[playground]'"),
    "jaxmarl": Suite("jaxmarl", "'purejaxppo[jaxmarl]'"),
    "gymnasium": Suite("gymnasium", "'purejaxppo[gymnasium]'"),
}


def missing_suite(suite: str, cause: object = None) -> MissingSuite:
    """Return the error for a suite whose package cannot be imported.

    Args:
        suite: a key of `SUITES`.
        cause: the exception that the import raised, if it was tried.
    """
    package, install = SUITES[suite]
    why = f" ({cause})" if cause else ""
    return MissingSuite(f"the suite {suite!r} needs the package {package}{why}: pip install {install}")
