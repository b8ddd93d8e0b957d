"""The clock recorded for an environment is the step at which its episodes are truncated."""

import numpy as np
import pytest
from suites import first_end, needs, play, play_batch

from purejaxppo.envs.facts import Facts, recorded
from purejaxppo.envs.protocol import VecEnv
from purejaxppo.envs.registry import make

SUITES = ("xland", "navix", "jumanji", "jaxmarl")  # whose steps cost little
LONGEST = 3000  # steps; a longer clock takes minutes to play
CLOCKS = {
    name: facts
    for name, facts in recorded().items()
    if facts.suite in SUITES and not facts.note and facts.time_limit is not None and facts.time_limit <= LONGEST
}


@pytest.mark.slow
@pytest.mark.parametrize("facts", CLOCKS.values(), ids=CLOCKS)
def test_an_episode_that_nothing_else_ends_is_truncated_by_its_clock(facts: Facts) -> None:
    needs(facts.suite)
    env, limit = make(f"{facts.suite}/{facts.id}"), facts.time_limit
    assert limit is not None
    batch = play_batch(env, limit + 1, 16 * env.group_size) if isinstance(env, VecEnv) else play(env, limit + 1, 16).ts
    whole = ~batch.terminated[:limit].any(0)  # columns without an earlier end
    assert (first_end(batch.truncated[:, whole]) == limit).all()
    assert not batch.truncated[: limit - 1].any()
    assert not np.any(batch.truncated & batch.terminated)
    if not whole.any():
        pytest.skip("random play ends every episode before the clock")
