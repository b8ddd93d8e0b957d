"""Actor-critic networks: the protocol, observation inputs, encoders, recurrent cells, initializers and policy heads.

Imports `_util`, `config`, `distributions` and `envs`.
"""
