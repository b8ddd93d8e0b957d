"""A function in a subprocess returns its result, reports progress, or fails with a reason."""

import operator
import os

import pytest
from talkative import speaks

from purejaxppo.bench.subprocesses import ChildFailed, run_in_subprocess


def test_the_result_and_the_progress_are_returned():
    assert run_in_subprocess(operator.sub, 7, 3) == 4
    assert run_in_subprocess(os.getpid) != os.getpid()
    lines = []
    assert run_in_subprocess(speaks, "hello", log=lines.append) == 5
    assert lines == ["hello", "bye"]


def test_a_failure_has_a_reason():
    with pytest.raises(ChildFailed, match="ZeroDivisionError: "):
        run_in_subprocess(operator.truediv, 1, 0)
    with pytest.raises(ChildFailed, match="exit code 3"):
        run_in_subprocess(os._exit, 3)
