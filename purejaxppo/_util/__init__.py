"""Helpers that two or more rooms need: pytrees, files, text.

Imports nothing of the package.
"""
