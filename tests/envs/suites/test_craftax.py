"""Craftax: transitions equal the suite's; death, lava and the boss terminate, the clock truncates."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit
from suites import assert_same, colors, draw, needs, run_suite

from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.registry import make

needs("craftax")

CLASSIC = "craftax/Craftax-Classic-Symbolic-v1"


@pytest.fixture(scope="module")
def classic():
    """Craftax-Classic with a clock of 3 steps, its compiled functions and a first state."""
    env = make(CLASSIC, max_timesteps=3)
    reset, step = quick_jit(env.reset), quick_jit(env.step)
    return step, reset(jax.random.key(0))


def test_every_id_is_made_by_the_suite() -> None:
    from craftax.craftax_env import make_craftax_env_from_name

    assert all(make_craftax_env_from_name(name, auto_reset=False) for name in recorded_ids("craftax") if "Sym" in name)


def test_it_steps_as_the_suite_does(classic) -> None:
    from craftax.craftax_env import make_craftax_env_from_name

    step, (state, obs) = classic
    suite = make_craftax_env_from_name("Craftax-Classic-Symbolic-v1", auto_reset=False)

    def replay(key, key_step, state):
        obs, _ = suite.reset(key, suite.default_params)
        return obs, suite.step(key_step, state, jnp.int32(5), suite.default_params)[:3]

    key = jax.random.key(7)
    first_obs, (next_obs, next_state, reward) = run_suite(
        replay, jax.random.key_data(jax.random.key(0)), jax.random.key_data(key), state
    )
    ours, ts = step(key, state, jnp.int32(5))
    assert_same((obs, ts.obs, ts.reward), (first_obs, next_obs, reward))
    assert int(ours.timestep) == int(next_state.timestep) == 1


def flags(step, state, steps: int) -> list[tuple[bool, bool]]:
    found = []
    for t in range(steps):
        state, ts = step(jax.random.key(t), state, jnp.int32(0))
        found.append((bool(ts.terminated), bool(ts.truncated)))
        assert_same(ts.obs, ts.final_obs)
    return found


def test_the_clock_truncates_at_its_step(classic) -> None:
    step, (state, _) = classic
    assert flags(step, state, 3) == [(False, False), (False, False), (False, True)]


def test_death_at_the_step_of_the_clock_terminates(classic) -> None:
    step, (state, _) = classic
    dying = state.replace(
        timestep=jnp.full_like(state.timestep, 2), player_health=jnp.full_like(state.player_health, -9)
    )
    assert flags(step, dying, 1)[0][0]


def test_lava_terminates_with_full_health(classic) -> None:
    from craftax.craftax_classic.constants import BlockType

    step, (state, _) = classic
    burning = state.replace(map=jnp.full_like(state.map, BlockType.LAVA.value))
    assert flags(step, burning, 1) == [(True, False)]


def test_the_tiles_are_codes_and_the_numbers_after_them_are_not(classic) -> None:
    step, (state, _) = classic
    rich = state.replace(inventory=state.inventory.replace(wood=jnp.full_like(state.inventory.wood, 3)))
    obs = np.asarray(step(jax.random.key(0), rich, jnp.int32(0))[1].obs)
    codes = make(CLASSIC).observation_space.codes
    assert set(obs[codes]) == {0.0, 1.0}
    tiles = obs[codes].reshape(7, 9, -1)[..., :17]  # four kinds of creatures follow the 17 kinds of blocks
    np.testing.assert_array_equal(tiles.sum(axis=-1), 1.0)
    np.testing.assert_allclose(obs[~codes][0], 0.3, rtol=1e-3)


@pytest.mark.parametrize(("name", "numbers"), [(CLASSIC, 22), ("craftax/Craftax-Symbolic-v1", 51)])
def test_every_number_after_the_map_can_be_normalized(name: str, numbers: int) -> None:
    assert np.sum(~make(name).observation_space.codes) == numbers


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="max_timesteps"):
        make(CLASSIC, max_timestep=3)


@pytest.mark.slow
def test_pixels_are_bytes() -> None:
    env = make("craftax/Craftax-Classic-Pixels-v1")
    obs = np.asarray(quick_jit(env.reset)(jax.random.key(0))[1])
    assert env.observation_space.pixels
    assert obs.dtype == np.uint8
    assert obs.max() > 100


@pytest.mark.slow  # half a minute, if the suite has no cache of its textures yet
def test_it_is_drawn(tmp_path: Path) -> None:
    assert colors(draw(CLASSIC, tmp_path)) > 10
