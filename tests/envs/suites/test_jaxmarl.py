"""JaxMARL: agents of a team are columns of the batch; clocks truncate, and the death of a side of SMAX terminates."""

import jax.numpy as jnp
import numpy as np
import pytest
from suites import first_end, needs, play_batch

from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make
from purejaxppo.envs.suites import jaxmarl as adapter

jaxmarl = needs("jaxmarl")


def test_the_recorded_ids_are_ids_of_the_suite() -> None:
    assert set(recorded_ids("jaxmarl")) <= set(jaxmarl.registered_envs)


@pytest.fixture(scope="module")
def spread():
    return play_batch(make("jaxmarl/MPE_simple_spread_v3"), 27, 6)


def test_an_episode_of_mpe_has_26_steps_and_is_truncated(spread) -> None:
    assert (first_end(spread.truncated) == 26).all()
    assert not spread.terminated.any()
    assert not np.array_equal(spread.obs[25], spread.final_obs[25])  # the value of final_obs is bootstrapped


def test_columns_are_agents_that_observe_their_number(spread) -> None:
    np.testing.assert_array_equal(spread.obs[:, :, 18:], np.broadcast_to(np.tile(np.eye(3), (2, 1)), (27, 6, 3)))


def test_smax_terminates_at_the_step_of_the_clock_as_well() -> None:
    """One side of a state is killed; the clock runs out at the same step."""
    team = jaxmarl.make("HeuristicEnemySMAX", **adapter._resolve_names("HeuristicEnemySMAX", {"scenario": "3m"}))
    units = jnp.ones(6, bool)

    class State:
        unit_alive = units

    for alive, expected in (
        (units, (False, False)),
        (units.at[3:].set(False), (True, True)),
        (units.at[:3].set(False), (True, False)),
    ):
        State.unit_alive = alive
        assert tuple(map(bool, adapter._battle(team, State))) == expected


def test_smax_has_masks_and_its_clock_truncates_after_one_step_more_than_max_steps() -> None:
    vec = make("jaxmarl/HeuristicEnemySMAX", scenario="3m", max_steps=6)
    assert vec.group_size == 3
    ts = play_batch(vec, 14, 6)
    np.testing.assert_array_equal(ts.truncated[:, 0], [t % 7 == 6 for t in range(14)])
    assert not ts.terminated.any()  # too soon for a side to be dead
    assert ts.obs["action_mask"].any(-1).all()
    assert not ts.obs["action_mask"].all()


def test_overcooked_is_truncated_by_max_steps() -> None:
    ts = play_batch(make("jaxmarl/overcooked", max_steps=4, layout="coord_ring"), 9, 4)
    np.testing.assert_array_equal(ts.truncated[:, 0], [t % 4 == 3 for t in range(9)])
    assert not ts.terminated.any()


@pytest.mark.parametrize(
    ("name", "params", "num_counts"),
    [
        ("overcooked", {}, 5),
        ("overcooked_v2", {}, 5),
        ("overcooked_v2", {"layout": "two_rooms_both", "indicate_successful_delivery": True}, 9),
    ],
)
def test_layers_of_overcooked_with_counts_are_not_codes(name: str, params: dict, num_counts: int) -> None:
    """In random play the codes are 0 or 1, and a count or the timer exceeds 1."""
    vec = make(f"jaxmarl/{name}", **params)
    codes = vec.observation_space["observation"].codes
    assert (codes == codes[:1, :1]).all()
    assert (~codes[0, 0]).sum() == num_counts
    highest = play_batch(vec, 400, 128).obs["observation"].max(axis=(0, 1, 2, 3))
    assert set(highest[codes[0, 0]]) <= {0, 1}
    assert (highest[~codes[0, 0]] > 1).any()


@pytest.mark.parametrize(
    ("name", "params", "key"),
    [
        ("MPE_simple_spread_v3", {"num_agent": 3}, "num_agents"),
        ("HeuristicEnemySMAX", {"scenario": "3n"}, "3m"),
        ("overcooked", {"layout": "coord_rings"}, "coord_ring"),
    ],
)
def test_wrong_parameters_are_named(name: str, params: dict, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make(f"jaxmarl/{name}", **params)
