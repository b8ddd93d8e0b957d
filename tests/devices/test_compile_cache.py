"""The compile cache has a safe default folder and can be moved or switched off."""

import stat

import jax
import pytest

from purejaxppo.devices import compile_cache
from purejaxppo.devices.compile_cache import MIN_COMPILE_SECONDS, cache_folder, use_compile_cache


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
