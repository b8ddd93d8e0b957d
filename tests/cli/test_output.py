"""Output errors do not end a run."""

import os
import sys

import pytest

from purejaxppo.cli.output import tolerant_output


@pytest.mark.parametrize("fault", ["closed pipe", "full disk"])
def test_output_that_fails_is_discarded(monkeypatch, fault):
    if fault == "full disk":
        stream = open("/dev/full", "w")  # noqa: SIM115 - closed below
    else:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    with tolerant_output():
        for _ in range(3):
            print("x" * 10_000, flush=True)
        assert sys.stdout.encoding == stream.encoding
    assert sys.stdout is stream
    stream.close()  # the buffer is empty
