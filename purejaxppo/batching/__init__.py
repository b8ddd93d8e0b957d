"""From a rollout to minibatches: samples, sequences, burn-in, shuffles, gathering, microbatches.

Imports `_util`, `config` and `devices`.
"""
