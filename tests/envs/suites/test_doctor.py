"""No check of `purejaxppo doctor` fails with a shipped config of a suite."""

import pytest
from command_line import start

from purejaxppo.config.shipped import shipped_configs
from purejaxppo.config.toml import load_toml
from purejaxppo.envs.errors import EnvironmentUnavailable, MissingSuite
from purejaxppo.envs.registry import make

LARGE = ("suites/craftax_symbolic", "suites/playground_cheetah_run")  # minutes of compilation, and nothing new
CONFIGS = {name: path for name, path in shipped_configs().items() if name.startswith("suites/") and name not in LARGE}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_check_fails(name):
    run = load_toml(CONFIGS[name])
    try:
        make(run.env, **run.env_params)
    except (MissingSuite, EnvironmentUnavailable) as error:
        pytest.skip(str(error))
    process = start(["doctor", name])
    out, err = process.communicate()
    assert process.returncode == 0, out + err
