"""Sweeps: many settings and seeds trained side by side, kept in a results folder, searched and reported.

Imports everything below, `training` included; knows the command line only as the text of a command.
"""
