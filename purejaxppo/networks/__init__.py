"""Actor-critic networks: the protocol, and encoders, recurrent cells and policy heads behind it.

Imports `_util`, `config`, `distributions` and `envs`.
"""
