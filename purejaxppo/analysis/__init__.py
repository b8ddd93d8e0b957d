"""From recorded metrics to results: aggregates over seeds, learning curves, figures.

Imports `_util` only.
"""
