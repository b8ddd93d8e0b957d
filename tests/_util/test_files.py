"""A file is written completely or not at all."""

import pytest

from purejaxppo._util.files import write_atomic


@pytest.mark.parametrize(("data", "content"), [("µ", "µ".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_the_file_has_the_data_and_nothing_else_is_left(tmp_path, data, content):
    path = tmp_path / "file"
    path.write_text("a longer content than the new one")
    write_atomic(path, data)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(step, crash)
    with pytest.raises(OSError, match="no space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
