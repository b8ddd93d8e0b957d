"""No check of `purejaxppo doctor` fails with a shipped config of a suite."""

import pytest
from command_line import finish, start

from purejaxppo.config.shipped import shipped_configs
from purejaxppo.config.toml import load_toml
from purejaxppo.envs.errors import EnvironmentUnavailable, MissingSuite
from purejaxppo.envs.registry import make

CONFIGS = {name: path for name, path in shipped_configs().items() if name.startswith("suites/")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_check_fails(name):
    run = load_toml(CONFIGS[name])
    try:
        make(run.env, **run.env_params)
    except (MissingSuite, EnvironmentUnavailable) as error:
        pytest.skip(str(error))
    code, out, err = finish(start(["doctor", name]))
    assert code == 0, out + err
