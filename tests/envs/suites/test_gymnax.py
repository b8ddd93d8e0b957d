"""Every gymnax environment keeps to the protocol, and its transitions equal gymnax's."""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit
from slow import slow_except

from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.conformance import check_env
from purejaxppo.envs.errors import EnvironmentUnavailable, MissingSuite
from purejaxppo.envs.registry import available, make
from purejaxppo.envs.spaces import Box, Discrete, box, sample_space
from purejaxppo.envs.suites import gymnax as adapter

IDS = available()["gymnax"]
QUICK = ("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Catch-bsuite", "DeepSea-bsuite", "Breakout-MinAtar")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the download by a few made-up digits."""
    from gymnax.utils import load_mnist

    images, labels = np.arange(12 * 9, dtype=np.int8).reshape(12, 3, 3), np.arange(12, dtype=np.uint8) % 10
    monkeypatch.setattr(load_mnist, "load_mnist", lambda: ((images, labels), (images, labels)))


# --- ids --------------------------------------------------------------------------------------------------


def test_the_ids_read_from_the_source_are_those_of_the_registry() -> None:
    import gymnax

    source = Path(gymnax.__file__).with_name("registration.py")
    assert adapter._read_ids(source) == tuple(gymnax.registered_envs)
    assert tuple(gymnax.registered_envs) == IDS
    assert adapter._read_ids(Path(__file__)) == ()
    assert adapter._read_ids(source.with_name("no_such_file.py")) == ()


@pytest.fixture
def registered() -> Iterator[str]:
    """Register an environment with gymnax as a user would."""
    import gymnax
    from gymnax import registration

    gymnax.register("Mine-v0", gymnax.environments.CartPole)
    yield "Mine-v0"
    registration.registered_envs.remove("Mine-v0")
    registration._registry.pop("Mine-v0")


def test_environments_registered_by_the_user_are_found(registered: str) -> None:
    assert registered in available()["gymnax"]
    assert make(registered).action_space == Discrete(2)


# --- every environment ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mnist")
@pytest.mark.parametrize("name", slow_except(IDS, *QUICK))
def test_every_environment_steps_16_times_and_keeps_to_its_spaces(name: str, key: jax.Array) -> None:
    env = make(name)
    check_env(env)  # a state's type is a fixed point of step; rewards float32, flags bool
    vec, num_envs, num_steps = auto_reset(env, "fresh"), 3, 16
    sample = jax.vmap(jax.vmap(partial(sample_space, env.action_space)))

    @quick_jit
    def run(key: jax.Array) -> Any:
        key_reset, key_noise, key_action = jax.random.split(key, 3)
        env_state, obs = vec.reset(key_reset, num_envs)
        noise = vec.noise(key_noise, num_steps, num_envs)
        actions = sample(jax.random.split(key_action, (num_steps, num_envs)))
        last, timesteps = jax.lax.scan(lambda s, x: vec.step(x[0], s, x[1]), env_state, (noise, actions))
        return env_state, obs, actions, last, timesteps

    first, obs, actions, last, ts = run(key)
    space = env.observation_space
    assert isinstance(space, Box)
    assert len(space.shape) >= 1
    for value in (ts.obs, ts.final_obs, obs[None]):
        assert value.shape[1:] == (num_envs, *space.shape)
        assert value.dtype == space.dtype
        assert np.isfinite(value).all()
    assert ts.reward.shape == ts.terminated.shape == ts.truncated.shape == (num_steps, num_envs)
    assert (ts.reward.dtype, ts.terminated.dtype, ts.truncated.dtype) == (jnp.float32, jnp.bool_, jnp.bool_)
    assert np.isfinite(ts.reward).all()
    assert not (ts.terminated & ts.truncated).any()
    done = np.asarray(ts.terminated | ts.truncated)
    np.testing.assert_array_equal(np.asarray(ts.obs)[~done], np.asarray(ts.final_obs)[~done])
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), s) for s in (first, last)]
    assert kinds[0] == kinds[1]
    if isinstance(env.action_space, Box):
        assert (np.asarray(actions) >= env.action_space.low).all()
        assert (np.asarray(actions) <= env.action_space.high).all()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {"max_steps_in_episode": 7}),
        ("FourRooms-misc", {}),
        ("UmbrellaChain-bsuite", {"chain_length": 4}),
    ],
)
def test_transitions_equal_those_of_gymnax(name: str, params: dict, key: jax.Array) -> None:
    import gymnax

    env = make(name, **params)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs, default = gymnax.make(name)
        params_theirs = default.replace(**params)
        theirs_step = quick_jit(lambda k, s, a: theirs.step_env(k, s, a, params_theirs))
        key_reset, *keys = jax.random.split(key, 13)
        actions = [sample_space(env.action_space, k) for k in jax.random.split(jax.random.key(7), 12)]
        obs_theirs, state_theirs = theirs.reset_env(jax.random.clone(key_reset), params_theirs)
    state, obs = env.reset(key_reset)
    np.testing.assert_array_equal(obs, obs_theirs)
    step = quick_jit(env.step)
    for k, action in zip(keys, actions, strict=True):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            expected = theirs_step(jax.random.clone(k), state_theirs, action)
        obs_theirs, state_theirs, reward, terminated, _ = expected
        state, timestep = step(k, state, action)
        np.testing.assert_allclose(timestep.obs, obs_theirs, rtol=1e-6)
        np.testing.assert_array_equal(timestep.final_obs, timestep.obs)
        np.testing.assert_allclose(timestep.reward, reward, rtol=1e-6)
        assert bool(timestep.terminated) == bool(terminated)
        assert bool(timestep.truncated) == bool(theirs.is_truncated(state_theirs, params_theirs))


@pytest.mark.parametrize("name", slow_except([x for x in IDS if x.endswith("-MinAtar")], "Breakout-MinAtar"))
def test_a_minatar_grid_contains_only_zeros_and_ones(name: str, key: jax.Array) -> None:
    """1000 random steps of gymnax's environment, over several episodes."""
    import gymnax

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        theirs, params = gymnax.make(name)

        def step(state: Any, key: jax.Array) -> tuple:
            obs, state, *_ = theirs.step(key, state, theirs.action_space(params).sample(key), params)
            return state, obs

        _, obs = quick_jit(partial(jax.lax.scan, step))(theirs.reset(key, params)[1], jax.random.split(key, 1000))
    assert set(np.unique(obs)) == {0.0, 1.0}
    assert make(name).observation_space == box(0, 1, obs.shape[1:], bool)


def test_pendulum_is_truncated_by_its_clock_and_never_terminated(key: jax.Array) -> None:
    vec = auto_reset(make("Pendulum-v1", max_steps_in_episode=5))

    @quick_jit
    def run(key: jax.Array) -> Any:
        key_reset, key_noise = jax.random.split(key)
        state, _ = vec.reset(key_reset, 2)
        step = lambda s, n: vec.step(n, s, jnp.zeros((2, 1)))  # noqa: E731
        return jax.lax.scan(step, state, vec.noise(key_noise, 12, 2))[1]

    ts = run(key)
    np.testing.assert_array_equal(np.flatnonzero(ts.truncated[:, 0]), [4, 9])
    assert not ts.terminated.any()
    changed = (np.asarray(ts.obs) != np.asarray(ts.final_obs)).any(-1)
    np.testing.assert_array_equal(changed, ts.truncated)


def test_the_raw_step_can_set_both_flags_and_terminated_wins(key: jax.Array) -> None:
    env = make("DeepSea-bsuite", size=3, max_steps_in_episode=3)
    keys, action = list(jax.random.split(key, 4)), jnp.asarray(1, jnp.int32)
    (state, _), step = quick_jit(env.reset)(keys[0]), quick_jit(env.step)
    for k in keys[1:]:
        state, timestep = step(k, state, action)
    assert bool(timestep.terminated)
    assert bool(timestep.truncated)
    vec = auto_reset(env)

    @quick_jit
    def run(key: jax.Array) -> Any:
        key_reset, key_noise = jax.random.split(key)
        step = lambda s, n: vec.step(n, s, jnp.stack([action] * 2))  # noqa: E731
        return jax.lax.scan(step, vec.reset(key_reset, 2)[0], vec.noise(key_noise, 3, 2))[1]

    ts = run(jax.random.key(1))
    np.testing.assert_array_equal(ts.terminated[:, 0], [False, False, True])
    assert not ts.truncated.any()


# --- spaces and dtypes ------------------------------------------------------------------------------------


def test_discrete_observations_become_one_hot(key: jax.Array) -> None:
    env = make("FrozenLake-misc", is_slippery=False)
    assert env.observation_space == box(0, 1, (16,), codes=True)
    state, obs = env.reset(key)
    np.testing.assert_array_equal(obs, np.eye(16)[0])
    _, timestep = env.step(jax.random.key(1), state, jnp.asarray(1, jnp.int32))  # down, on a map of 4 x 4
    np.testing.assert_array_equal(timestep.obs, np.eye(16)[4])


def test_observation_spaces_are_correct_even_if_those_of_gymnax_are_not() -> None:
    kinds = {"FourRooms-misc": ((4,), "int32"), "Catch-bsuite": ((10, 5), "float32"),
             "Breakout-MinAtar": ((10, 10, 4), "bool")}  # fmt: skip
    for name, kind in kinds.items():
        space = make(name).observation_space
        assert isinstance(space, Box)
        assert (space.shape, str(space.dtype)) == kind


def test_box_actions_keep_their_bounds() -> None:
    assert make("Pendulum-v1").action_space == box(-2, 2, (1,))
    assert make("Pendulum-v1", max_torque=3).action_space == box(-3, 3, (1,))
    assert make("PointRobot-misc").action_space == box(-0.1, 0.1, (2,))


class Compound:
    """An environment like those of gymnax, with a Dict of a Tuple and a scalar as observation, and a number as flag."""

    def observation_space(self, params: Any) -> Any:
        from gymnax.environments import spaces

        pair = spaces.Tuple((spaces.Discrete(3), spaces.Box(0, 255, (2, 2), jnp.uint8)))
        return spaces.Dict({"pair": pair, "height": spaces.Box(-1, 1, (), jnp.float32)})

    def action_space(self, params: Any) -> Any:
        from gymnax.environments import spaces

        return spaces.Dict({"go": spaces.Discrete(2), "push": spaces.Box(-1, 1, (2,))})

    def reset_env(self, key: jax.Array, params: Any) -> tuple:
        return self.observe(0), 0

    def observe(self, time: Any) -> Any:
        return {"pair": (time % 3, jnp.full((2, 2), time, jnp.uint8)), "height": time / 2}

    def step_env(self, key: jax.Array, time: Any, action: Any, params: Any) -> tuple:
        return self.observe(time + 1), time + 1, action["go"], 1.0 * (time == 1), {}

    def is_truncated(self, time: Any, params: Any) -> Any:
        return time >= 3


def test_compound_and_scalar_observations_keep_their_structure(key: jax.Array) -> None:
    env = adapter.adapt(Compound(), None)
    check_env(env)
    assert env.observation_space == {
        "pair": (box(0, 1, (3,), codes=True), box(0, 255, (2, 2), np.uint8)),
        "height": box(-1, 1, (1,)),
    }
    assert env.action_space == {"go": Discrete(2), "push": box(-1, 1, (2,))}
    state, _ = env.reset(key)
    action = {"go": jnp.asarray(1, jnp.int32), "push": jnp.zeros(2)}
    for k in jax.random.split(jax.random.key(1)):
        state, timestep = env.step(k, state, action)
    np.testing.assert_array_equal(timestep.obs["pair"][0], [0, 0, 1])
    np.testing.assert_array_equal(timestep.obs["pair"][1], np.full((2, 2), 2))
    np.testing.assert_array_equal(timestep.obs["height"], [1.0])
    assert float(timestep.reward) == 1
    assert bool(timestep.terminated)
    assert not bool(timestep.truncated)


# --- parameters -------------------------------------------------------------------------------------------


def test_parameters_are_replaced_and_constructor_arguments_passed(key: jax.Array) -> None:
    assert make("Catch-bsuite", rows=6).observation_space == box(0, 1, (6, 5))
    assert make("FourRooms-misc", use_visual_obs=True).observation_space == box(0, 1, (13, 13, 2))
    env = make("CartPole-v1", max_steps_in_episode=np.int64(1), x_threshold=3)
    state, _ = env.reset(key)
    assert bool(env.step(jax.random.key(1), state, jnp.asarray(0, jnp.int32))[1].truncated)
    assert isinstance(env.observation_space, Box)
    np.testing.assert_allclose(env.observation_space.high[0], 6.0)
    acrobot = make("Acrobot-v1", available_torque=[0, 0, 0])
    state, _ = acrobot.reset(jax.random.key(1))
    steps = [acrobot.step(jax.random.key(2), state, jnp.asarray(a, jnp.int32))[1].obs for a in (0, 2)]
    np.testing.assert_array_equal(*steps)


def test_parameters_may_be_traced_to_map_over_them(key: jax.Array) -> None:
    def fall(gravity: jax.Array) -> jax.Array:
        env = make("CartPole-v1", gravity=gravity)
        state, _ = env.reset(jax.random.key(3))
        state, _ = env.step(jax.random.key(4), state, jnp.asarray(1, jnp.int32))
        return env.step(jax.random.key(5), state, jnp.asarray(1, jnp.int32))[1].obs

    gravity = jnp.array([1.0, 9.8])
    several = quick_jit(jax.vmap(fall))(gravity)
    for g, obs in zip((1.0, 9.8), several, strict=True):
        np.testing.assert_allclose(obs, fall(jnp.float32(g)), rtol=1e-4)
    assert not np.allclose(several[0], several[1], rtol=1e-4)


def test_traced_fields_are_parameters_of_the_environment() -> None:
    """A transition at another gravity equals that of the environment made with it; the clock may be traced too."""
    env = make("CartPole-v1", traced=("gravity", "max_steps_in_episode"), gravity=5.0)
    assert env.params == {"gravity": 5.0, "max_steps_in_episode": 500}
    assert env.truncation_gap == 1
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(theta=jnp.float32(0.1))

    @quick_jit
    def step(params: Any) -> Any:
        return env.family(params).step(jax.random.key(1), state, jnp.int32(1))[1]

    for gravity in (5.0, 20.0):
        other = make("CartPole-v1", gravity=gravity)
        expected = quick_jit(other.step)(jax.random.key(1), state, jnp.int32(1))[1]
        found = step({"gravity": jnp.float32(gravity), "max_steps_in_episode": jnp.int32(1)})
        np.testing.assert_allclose(found.obs, expected.obs, rtol=1e-6)
        assert found.truncated
        assert not expected.truncated
    grid = make("Breakout-MinAtar", traced=("max_steps_in_episode",))
    assert jax.eval_shape(grid.family(grid.params).reset, jax.random.key(0))[1].dtype == bool


def test_fields_that_cannot_be_traced_are_refused() -> None:
    for field, text in (
        ("gravty", "no parameter 'gravty' .nearest: gravity"),
        ("x_threshold", r"CartPole-v1 cannot be made with traced = \['x_threshold'\]: the shapes and spaces"),
    ):
        with pytest.raises(ValueError, match=text):
            make("CartPole-v1", traced=(field,))


def test_unknown_parameters_name_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"CartPole-v1 has no parameter 'gravty' \(nearest: gravity, .*, .*\)"
    ) as error:
        make("CartPole-v1", gravty=9.8, max_step=3)
    assert "'max_step' (nearest: max_steps_in_episode" in str(error.value)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("CartPole-v1", {"max_steps_in_episode": 3.5}, "must be a whole number, like 500, not 3.5"),
        ("CartPole-v1", {"max_steps_in_episode": 0}, r"max_steps_in_episode must be in \[1, 2147483647\], not 0"),
        ("CartPole-v1", {"max_steps_in_episode": 2**31}, r"must be in \[1, 2147483647\], not 2147483648"),
        ("CartPole-v1", {"gravity": float("inf")}, "gravity must be in .*, not inf"),
        ("BernoulliBandit-misc", {"max_steps_in_episode": -1}, r"must be in \[1, 2147483647\], not -1"),
        ("Catch-bsuite", {"rows": 0}, r"rows must be in \[1, 1000\], not 0"),
        ("Catch-bsuite", {"columns": 10**9}, r"columns must be in \[1, 1000\], not 1000000000"),
        ("FrozenLake-misc", {"success_rate": 1.5}, r"success_rate must be in \[0, 1\]"),
        ("FrozenLake-misc", {"desc": 5}, "FrozenLake-misc cannot be made with {.desc.: 5}"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(name, **params)


class Shifted:
    """An environment like those of gymnax, with Discrete spaces that begin at 1 and at -2."""

    def observation_space(self, params: Any) -> Any:
        return self.discrete(3, 1)

    def action_space(self, params: Any) -> Any:
        return self.discrete(4, -2)

    def discrete(self, n: int, start: int) -> Any:
        from gymnax.environments import spaces

        space = spaces.Discrete(n)
        space.start = start
        return space

    def reset_env(self, key: jax.Array, params: Any) -> tuple:
        return jnp.int32(1), jnp.int32(0)

    def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple:
        return jnp.int32(3), state, action, False, {}

    def is_truncated(self, state: Any, params: Any) -> Any:
        return False


def test_discrete_spaces_that_do_not_begin_at_0_are_shifted(key: jax.Array) -> None:
    env = adapter.adapt(Shifted(), None)
    assert env.action_space == Discrete(4)
    state, obs = env.reset(key)
    np.testing.assert_array_equal(obs, [1, 0, 0])
    rewards = []
    for action in range(4):
        _, timestep = env.step(jax.random.key(1), state, jnp.asarray(action, jnp.int32))
        rewards.append(float(timestep.reward))
    assert rewards == [-2, -1, 0, 1]
    np.testing.assert_array_equal(timestep.obs, [0, 0, 1])


# --- missing packages and data ----------------------------------------------------------------------------


def test_a_suite_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(MissingSuite, match=r"needs the package gymnax \(.*gymnax.*\): pip install"):
        adapter._import()


def test_an_environment_that_needs_a_download_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from gymnax.utils import load_mnist

    def offline() -> None:
        raise URLError("name or service not known")

    monkeypatch.setattr(load_mnist, "load_mnist", offline)
    with pytest.raises(EnvironmentUnavailable, match=r"MNISTBandit-bsuite needs data .* network"):
        make("MNISTBandit-bsuite")


@pytest.mark.parametrize(("num_bits", "memory_length"), [(1, 1), (1, 5), (4, 3)])
def test_observations_of_the_memory_chain_reach_the_bounds_of_their_space(num_bits, memory_length):
    """[time left, query, bits]: bits are -1 or 1 in the first step, the query is an index; gymnax declares others."""
    env = make("MemoryChain-bsuite", num_bits=num_bits, memory_length=memory_length)
    space = env.observation_space
    seen = []
    for seed in range(20):
        state, obs = env.reset(jax.random.key(seed))
        seen.append(obs)
        for _ in range(memory_length + 1):
            state, timestep = env.step(jax.random.key(0), state, jnp.int32(0))
            seen.append(timestep.final_obs)
    seen = np.stack(seen)
    assert (seen >= space.low).all()
    assert (seen <= space.high).all()
    assert seen[:, 2:].min() == -1.0
    assert seen[:, 0].max() == 1.0
    if num_bits > 1:
        assert seen[:, 1].max() == space.high[1] == num_bits - 1
