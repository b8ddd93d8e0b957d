"""The command line, one file per command; `commands` lists them.

Imports every other room; no room imports it.
"""
