"""Errors about files that a run left behind."""


class CheckpointError(ValueError):
    """A policy or checkpoint that cannot be used; the message says what is wrong with it."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is incomplete, or not what was written."""


class OutOfMemoryError(RuntimeError):
    """A program that does not fit the memory of its device; the message lists its buffers and what would fit."""
