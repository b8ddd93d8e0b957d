"""Errors about environments that cannot be made."""


class EnvironmentProblem(ValueError):
    """An environment cannot be made; the message says why and what to do."""


class UnknownEnvironment(EnvironmentProblem):
    """No suite has an environment of this name; the message names the nearest."""


class MissingSuite(EnvironmentProblem):
    """The package of the suite is not installed; the message says what to install."""


class EnvironmentUnavailable(EnvironmentProblem):
    """The environment needs something that is not there, such as the network."""
