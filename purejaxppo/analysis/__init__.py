"""From recorded metrics to results: statistics over seeds, learning curves, figures.

Imports `_util` only.
"""
