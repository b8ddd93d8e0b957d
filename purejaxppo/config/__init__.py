"""Settings: declarations, checks, TOML files and errors that list every problem.

Imports `_util` only. JAX is not imported at import time, so that `--help` and errors appear at once.
"""
