"""The benchmark: workloads, timing, kernel counts, and their table and figure.

Imports everything but `cli`.
"""
