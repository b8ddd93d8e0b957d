"""From a rollout to minibatches: sequences, burn-in, shuffles, gathering, microbatches.

Imports `_util`, `config` and `devices`.
"""
