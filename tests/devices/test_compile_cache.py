"""The compile cache has a safe default folder and can be moved or switched off."""

import json
import os
import stat
import zlib

import jax
import pytest
from command_line import finish, start

from purejaxppo.devices import compile_cache
from purejaxppo.devices.compile_cache import MIN_COMPILE_SECONDS, cache_folder, is_sound, tidy, use_compile_cache


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no"])
def test_the_cache_can_be_switched_off(monkeypatch, word):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", word)
    assert cache_folder() is None


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path / "here"))
    assert cache_folder().parent == tmp_path / "here"
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder().parent == tmp_path / "xdg" / "purejaxppo" / "xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().parent == tmp_path / ".cache" / "purejaxppo" / "xla"
    assert stat.S_IMODE((tmp_path / ".cache" / "purejaxppo" / "xla").stat().st_mode) == 0o700


def test_a_cache_that_others_can_write_is_not_used(monkeypatch, tmp_path, capsys):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(shared))
    assert cache_folder() is None
    assert "can be written by others" in capsys.readouterr().err


def test_a_cache_that_cannot_be_created_is_off(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path / "file" / "cache"))
    assert cache_folder() is None
    assert "compile cache off" in capsys.readouterr().err


def test_settings_of_jax_have_priority(monkeypatch, tmp_path):
    """JAX's environment variables for the folder and the minimum compile time are kept."""
    set_values = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_values.update({name: value}))
    monkeypatch.setattr(compile_cache, "cache_folder", lambda: tmp_path)
    use_compile_cache()
    folder, least = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    assert set_values == {folder: str(tmp_path), least: MIN_COMPILE_SECONDS}
    set_values.clear()
    monkeypatch.setenv(least.upper(), "0")
    use_compile_cache()
    assert set_values == {folder: str(tmp_path)}
    set_values.clear()
    monkeypatch.setenv(folder.upper(), "elsewhere")
    use_compile_cache()
    assert set_values == {}


def test_only_the_command_line_sets_a_cache():
    assert jax.config.jax_compilation_cache_dir is None


# ---- folders and files that others can write


def test_the_subfolder_is_checked_too(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path))
    cache_folder().chmod(0o770)
    assert cache_folder() is None
    assert "can be written by others" in capsys.readouterr().err


def test_a_link_in_place_of_the_subfolder_is_not_followed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path / "cache"))
    inner = cache_folder()
    inner.rmdir()
    (tmp_path / "elsewhere").mkdir()
    inner.symlink_to(tmp_path / "elsewhere")
    assert cache_folder() is None


def test_a_folder_of_another_user_is_not_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache_folder() is None
    assert "another user" in capsys.readouterr().err


def test_an_open_folder_is_closed_without_the_files_that_others_could_write(monkeypatch, tmp_path):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE", str(tmp_path))
    inner = cache_folder()
    for name, mode in (("mine-cache", 0o644), ("open-cache", 0o666)):
        (inner / name).write_bytes(b"")
        (inner / name).chmod(mode)
    inner.chmod(0o755)
    assert cache_folder() == inner
    assert [path.name for path in inner.iterdir()] == ["mine-cache"]
    assert stat.S_IMODE(inner.stat().st_mode) == 0o700


# ---- size, and damaged entries


def keep(folder, name, age, size=1000):
    """An entry of `size` random bytes, compressed, that was used `age` seconds ago."""
    path = folder / f"{name}-cache"
    path.write_bytes(zlib.compress(os.urandom(size)))
    now = folder.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def test_the_oldest_entries_go_until_the_rest_fits(tmp_path):
    paths = [keep(tmp_path, name, age) for name, age in (("b", 200), ("c", 300), ("a", 100))]
    (tmp_path / "c-atime").write_bytes(b"12345678")
    sizes = [path.stat().st_size for path in paths]
    tidy(tmp_path, sum(sizes))
    assert all(path.exists() for path in paths)
    tidy(tmp_path, sum(sizes) - 1)
    assert [path.exists() for path in paths] == [True, False, True]
    assert not (tmp_path / "c-atime").exists()
    tidy(tmp_path, 0)
    assert not list(tmp_path.glob("*-cache"))


@pytest.mark.parametrize(
    ("given", "size"), [("", compile_cache.MAX_BYTES), ("12", 12), ("much", compile_cache.MAX_BYTES)]
)
def test_the_size_is_a_number_of_bytes(monkeypatch, capsys, given, size):
    monkeypatch.setenv("PUREJAXPPO_COMPILE_CACHE_SIZE", given)
    assert compile_cache.max_bytes() == size
    assert ("expected a number" in capsys.readouterr().err) == (given == "much")


def test_damaged_entries_are_removed_and_sound_ones_read_once(monkeypatch, tmp_path):
    sound, *rest = (keep(tmp_path, name, 10) for name in ("sound", "cut", "empty", "flipped", "longer", "text"))
    data = rest[0].read_bytes()
    for path, content in zip(
        rest, (data[:-1], b"", data[:500] + bytes([data[500] ^ 1]) + data[501:], data + b"x", b"text"), strict=True
    ):
        path.write_bytes(content)
    tidy(tmp_path, 10**9)
    assert list(tmp_path.glob("*-cache")) == [sound]
    read = []
    monkeypatch.setattr(compile_cache, "is_sound", lambda path: read.append(path) or is_sound(path))
    tidy(tmp_path, 10**9)
    assert read == []
    sound.write_bytes(data[:20])
    tidy(tmp_path, 10**9)
    assert read == [sound]
    assert not sound.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"a-cache": 7}', "no JSON"])
def test_a_damaged_list_of_entries_is_written_again(tmp_path, content):
    path = keep(tmp_path, "a", 10)
    (tmp_path / compile_cache.CHECKED).write_text(content)
    tidy(tmp_path, 10**9)
    assert path.exists()
    assert list(json.loads((tmp_path / compile_cache.CHECKED).read_text())) == ["a-cache"]


def test_a_folder_that_vanishes_meanwhile_is_tolerated(tmp_path):
    tidy(tmp_path / "none", 10)
    assert is_sound(tmp_path / "none-cache"), "another process has removed it, and nothing is left to remove"


SCRIPT = """
import warnings, jax, jax.numpy as jnp
from purejaxppo.devices.compile_cache import use_compile_cache
warnings.simplefilter("error")
use_compile_cache()
print(jax.jit(lambda x: jnp.sort(jnp.sin(x)).cumsum()[-1])(jnp.arange(100.0)))
"""


@pytest.mark.slow
def test_two_processes_at_once_and_truncated_files_do_no_harm(tmp_path):
    env = {"PUREJAXPPO_COMPILE_CACHE": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    pair = [start([], env, script=("-c", SCRIPT)) for _ in range(2)]
    results = [finish(process) for process in pair]
    entries = list(tmp_path.glob("*/*-cache"))
    assert entries
    for path in entries:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    results.append(finish(start([], env, script=("-c", SCRIPT))))
    assert {code for code, _, _ in results} == {0}, results
    assert len({out for _, out, _ in results}) == 1
    assert {err for _, _, err in results} == {""}
    assert all(is_sound(path) for path in tmp_path.glob("*/*-cache")), "the program was kept again"
    assert {path.name for path in tmp_path.glob("*/*-cache")} == {path.name for path in entries}
