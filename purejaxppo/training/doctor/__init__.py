"""Checks of a user's environment and network before a long run; `examination` has the public function.

Each check looks for one fault, and a fault of the environment becomes advice, not an exception.
Imports `purejaxppo.training` and what it may import.
"""
