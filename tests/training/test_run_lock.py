"""Only one process writes a run; the lock of a dead process is released."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from purejaxppo.config.errors import UsageError
from purejaxppo.training import run_lock
from purejaxppo.training.run_lock import LOCK_FILE, lock_run

HOLDER = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path):
    with lock_run(tmp_path):
        with pytest.raises(UsageError, match="another process writes this run"), lock_run(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
    with lock_run(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], **pipes) as process:
        process.stdout.readline()
        with pytest.raises(UsageError, match="another process"), lock_run(tmp_path):
            pass
        process.kill()
    with lock_run(tmp_path):
        pass


def test_a_folder_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), lock_run(tmp_path / "none"):
        pass


def test_where_folders_cannot_be_locked_a_file_in_them_is(tmp_path, monkeypatch):
    """As on NFS, where an exclusive lock needs a file that is open for writing."""
    real = fcntl.flock

    def flock(handle, operation):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_run(tmp_path):
        with pytest.raises(UsageError, match="another process writes this run"), lock_run(tmp_path):
            pass
        assert [entry.name for entry in tmp_path.iterdir()] == [LOCK_FILE]
    with lock_run(tmp_path):
        pass


def test_without_any_locks_nothing_is_locked(tmp_path, monkeypatch):
    """Two processes may then write the run; both the folder and the file were tried."""
    tried = []

    def flock(handle, operation):
        tried.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    held = []
    with lock_run(tmp_path):
        held.append(1)
        with lock_run(tmp_path):
            held.append(2)
    assert held == [1, 2]
    assert tried == ["folder", "file"] * 2


def test_a_system_without_such_locks_opens_nothing(tmp_path, monkeypatch):
    """As Windows, where a folder cannot be opened."""

    def opened(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(run_lock, "fcntl", None)
        patch.setattr(os, "open", opened)
        with lock_run(tmp_path), lock_run(tmp_path):
            pass
        assert run_lock._locked(-1, tmp_path) is False
    assert list(tmp_path.iterdir()) == []
