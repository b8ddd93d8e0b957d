"""Settings: declarations, checks, TOML and the errors that name every problem.

Imports `_util` only, and no JAX at import time: `--help` and a bad config answer quickly.
"""
