"""One adapter per environment suite, imported when an environment of the suite is made.

An adapter has `ids()`, which is cheap, and `make(id, **env_params)`. It imports the protocol, never another adapter.
"""
