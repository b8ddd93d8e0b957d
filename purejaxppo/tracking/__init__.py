"""Where metrics go: rows, CSV files, the progress display.

Knows rows of numbers only, never the training loop.
"""
