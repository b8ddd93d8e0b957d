"""Where a program runs: sharding over devices, CPU set-up, the persistent compile cache.

Imports nothing of the package.
"""
