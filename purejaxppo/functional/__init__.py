"""The mathematics of PPO: arrays and numbers in, arrays out, one formula per function.

Imports JAX and `_util` only. Every public function quotes its formula, its number in the source and the literature.
"""
