"""Where metrics go: rows, CSV files and the progress display.

Knows rows of numbers only, never the training loop.
"""
