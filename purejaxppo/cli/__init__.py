"""The command line, one file per command.

Imports every other room; no room imports it.
"""
