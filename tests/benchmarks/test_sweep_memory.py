"""The memory forecast of a sweep is that of the process."""

import re
import subprocess
import sys

import pytest
from command_line import ROOT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_forecast_is_within_a_quarter_of_the_peak():
    command = [sys.executable, ROOT / "benchmarks" / "sweep_memory.py", "--runs", "16", "64"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    ratios = [float(ratio) for ratio in re.findall(r"forecast / peak ([\d.]+)", text)]
    assert len(ratios) == 2
    assert all(0.75 <= ratio <= 1.25 for ratio in ratios), text
