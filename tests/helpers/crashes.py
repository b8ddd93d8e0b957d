"""Crashes after a number of file operations, for tests of what a crash leaves on the disk."""

import os


class Crash(BaseException):
    """A simulated crash: no later operation reaches the disk."""


def crash_after(monkeypatch, count: int) -> list[str]:
    """Let `count` file operations succeed and raise at all later ones; yield the list of those that succeeded."""
    done: list[str] = []

    def counted(name):
        real = getattr(os, name)

        def operation(*args, **kwargs):
            if len(done) >= count:
                raise Crash
            done.append(name)
            return real(*args, **kwargs)

        return operation

    for name in ("replace", "fsync", "unlink", "mkdir", "rmdir", "open"):
        monkeypatch.setattr(os, name, counted(name))
    return done
