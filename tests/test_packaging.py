"""What is installed: the shipped settings and the command."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from purejaxppo.config.shipped import PACKAGE, shipped_configs, shipped_sweeps

ROOT = Path(__file__).parents[1]


def test_the_shipped_settings_are_installed_where_the_package_reads_them():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": f"{PACKAGE.name}/configs"}
    assert not (PACKAGE / "configs").exists()  # a clone has them in one place


def test_the_program_is_the_command_line():
    code = "import sys; sys.argv[1:] = ['--version']; import runpy; runpy.run_module('purejaxppo', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("purejaxppo ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"purejaxppo": "purejaxppo.cli.main:main"}


@pytest.mark.slow
def test_a_wheel_holds_the_shipped_settings_and_trains_by_id(tmp_path):
    """Built and unpacked as pip does, outside of the repository."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=600)
    (file,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(file).extractall(tmp_path / "site")
    names = {path.stem for path in (tmp_path / "site" / "purejaxppo" / "configs").rglob("*.toml")}
    assert names == {path.stem for path in (*shipped_configs().values(), *shipped_sweeps().values())}
    short = ["--total-timesteps", "4096", "--hidden-sizes", "8", "--out", "run"]
    command = [sys.executable, "-m", "purejaxppo", "train", "CartPole-v1", *short]
    env = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "PUREJAXPPO_COMPILE_CACHE": "off"}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=600)
    assert (tmp_path / "run" / "policy.safetensors").is_file()
