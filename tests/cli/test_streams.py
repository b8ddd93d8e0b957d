"""Standard streams with any encoding, open or closed."""

import io
import os
import sys

from purejaxppo.cli.streams import prepare_streams


def test_a_character_that_the_encoding_lacks_becomes_a_question_mark(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    prepare_streams()
    print("λ = 1", flush=True)
    assert raw.getvalue() == b"? = 1\n"


def test_a_closed_stream_discards_its_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    prepare_streams()
    print("text")
    assert sys.stdout.name == os.devnull
    sys.stdout.close()


def test_streams_of_a_notebook_are_unchanged(monkeypatch):
    class Stream(io.StringIO):
        reconfigure = property()  # raises AttributeError

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    assert sys.stdout is stream
