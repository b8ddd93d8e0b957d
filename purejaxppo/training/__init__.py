"""Run the algorithm: whole runs, chunks, sweeps, evaluation, policy files and run folders.

Imports everything below `ppo`, and `ppo` itself.
"""
