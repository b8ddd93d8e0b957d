"""The settings in configs/suites/ learn their tasks: medians over seeds, each with a bound (tests/learning.py)."""

import numpy as np
import pytest
from learning import SUITE_GATES, suite_row, suite_scores

from purejaxppo.envs.errors import EnvironmentUnavailable, MissingSuite


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITE_GATES)
def test_the_median_of_the_seeds_reaches_its_bound(name: str) -> None:
    try:
        scores = suite_scores(name)
    except (MissingSuite, EnvironmentUnavailable) as error:
        pytest.skip(str(error))
    print(suite_row(name, scores))
    assert np.median(scores) >= SUITE_GATES[name].at_least, suite_row(name, scores)
