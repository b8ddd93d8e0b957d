"""Parameters of environments in training: they change without a recompile, and all public functions know them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import count_compiles
from levels import LENGTH, make_level
from plain_net import plain
from slow import slow_except
from two_agents import two_agents

import purejaxppo as pp
from purejaxppo.envs import Discrete, Env, TimeStep, box
from purejaxppo.envs.wrappers import OpponentParams, fold_agents, frozen_opponent

SIZES = {"num_envs": 4, "num_steps": 6, "num_epochs": 1, "num_minibatches": 2, "total_timesteps": 24 * 20}

pytestmark = pytest.mark.usefixtures("keys_move")


@cache
def algorithm(per_column=False, num_devices=1):
    env = pp.parametrized(make_level, {"level": 1.0}, per_column=per_column)
    return pp.make_ppo(env, plain(env), pp.Config(**SIZES, num_devices=num_devices))


def teams_of_two():
    """Return the batch of teams whose agents share the reward, each with its own level."""

    def team(params):
        return two_agents(make_level(params), lambda reward, action: (reward, reward))

    return fold_agents(pp.parametrized(team, {"level": 1.0}, per_column=True), 2)


def columns(values):
    return {"level": jnp.asarray(values, jnp.float32)}


@pytest.mark.parametrize("num_devices", slow_except([1, 2], 2))
@pytest.mark.parametrize("per_column", [False, True])
def test_a_level_changes_between_chunks_without_a_recompile_and_stays_over_resets(per_column, num_devices):
    """The return of an episode is the sum of the levels of its steps; every episode starts with an update."""
    algo = algorithm(per_column, num_devices)
    state = pp.init_state(algo, 0)
    returns = []
    with count_compiles() as compiles:
        for level in (1.0, 2.0, 5.0):
            new = columns([level - 0.5, level - 0.5, level + 0.5, level + 0.5]) if per_column else {"level": level}
            state = pp.set_env_params(state, new)
            chunks = list(pp.iterate(algo, state, num_updates=2, chunk=1))
            returns += [float(metrics.episode_return_mean[0]) for _, metrics in chunks]
            state = chunks[-1][0]
    np.testing.assert_allclose(returns, np.repeat([1.0, 2.0, 5.0], 2) * LENGTH, rtol=1e-6)
    assert compiles["_chunk"] == 1
    sizes = {shard.data.shape for shard in state.env_params["level"].addressable_shards}
    assert sizes == {(4 // num_devices,) if per_column else ()}


@pytest.mark.parametrize(("num_teams", "on_each_device"), [(2, 1), (3, 3)])
def test_each_team_has_its_level_on_two_devices_without_a_recompile(num_teams, on_each_device):
    """Levels lie with their teams, or on every device if the devices do not divide the teams."""
    env, sizes = teams_of_two(), SIZES | {"num_envs": 2 * num_teams, "total_timesteps": 12 * num_teams * 20}
    algo = pp.make_ppo(env, plain(env), pp.Config(**sizes, num_devices=2))
    state = pp.init_state(algo, 0)
    returns = []
    with count_compiles() as compiles:
        for level in (1.0, 2.0):
            state = pp.set_env_params(state, columns(level + np.arange(num_teams)))
            state, metrics = next(pp.iterate(algo, state, num_updates=1, chunk=1))
            returns.append(float(metrics.episode_return_mean[0]))
    np.testing.assert_allclose(returns, LENGTH * (np.array([1.0, 2.0]) + (num_teams - 1) / 2), rtol=1e-6)
    assert compiles["_chunk"] == 1
    assert {shard.data.shape for shard in state.env_params["level"].addressable_shards} == {(on_each_device,)}
    np.testing.assert_array_equal(state.env_params["level"], 2.0 + np.arange(num_teams))


def test_calls_of_update_and_changes_inside_jit_share_one_program():
    algo = algorithm()
    h = pp.Hyperparams(*map(jnp.float32, pp.Hyperparams()))
    count = []

    @jax.jit
    def step(state, level):
        count.append(1)
        return algo.update(pp.set_env_params(state, {"level": level}), h)

    state, found = pp.init_state(algo, 0), []
    for level in (1.0, 4.0):
        state, metrics = step(state, jnp.float32(level))
        found.append(float(metrics.episode_return_mean))
    assert found == [LENGTH, 4 * LENGTH]
    assert len(count) == 1


def test_a_rollout_shows_the_running_episode_and_then_the_new_level():
    algo = algorithm()
    state, _ = pp.rollout(algo, pp.init_state(algo, 0), 1)
    after, seen = pp.rollout(algo, state, 1, env_params={"level": 3})
    np.testing.assert_array_equal(seen.reward, 3)
    np.testing.assert_array_equal(seen.obs[:, 0, 0], [1, 1, 1, 3, 3, 3])
    assert after.env_params == {"level": 1.0}
    _, same = pp.rollout(algo, pp.set_env_params(state, {"level": 3}), 1)
    jax.tree.map(np.testing.assert_array_equal, seen, same)


def test_evaluation_plays_the_level_of_the_state_or_the_one_given():
    algo = algorithm()
    state = pp.init_state(algo, 0, env_params={"level": 2})
    np.testing.assert_array_equal(state.obs[:, 0], 2)
    with count_compiles() as compiles:
        assert (pp.evaluate(algo, state, 1, 3).returns == 2 * LENGTH).all()
        assert (pp.evaluate(algo, state, 1, 3, env_params={"level": 5}).returns == 5 * LENGTH).all()
    assert compiles["_play"] == 1
    policy = pp.training.policy_file.Policy(state.params, state.obs_moments)
    assert (pp.evaluate(algo, policy, 1, 3).returns == LENGTH).all()
    np.testing.assert_array_equal(pp.record(algo, state, 1, 2).reward, [2, 2])
    np.testing.assert_array_equal(pp.record(algo, state, 1, 2, env_params={"level": 4}).reward, [4, 4])


def test_episodes_of_an_evaluation_go_round_the_columns():
    algo = algorithm(per_column=True)
    state = pp.set_env_params(pp.init_state(algo, 0), columns([1, 2, 3, 4]))
    np.testing.assert_array_equal(pp.evaluate(algo, state, 1, 6).returns, LENGTH * np.array([1, 2, 3, 4, 1, 2]))
    found = pp.evaluate(algo, state, 1, 3, env_params=columns([7, 9])).returns
    np.testing.assert_array_equal(found, LENGTH * np.array([7, 9, 7]))
    assert (pp.evaluate(algo, state, 1, 3, env_params={"level": 6}).returns == 6 * LENGTH).all()


def test_episodes_go_round_the_columns_in_batches_too():
    algo = algorithm(per_column=True)
    state = pp.init_state(algo, 0, env_params=columns([1, 2, 3, 4]))
    found = pp.evaluate(algo, state, 1, 8, at_once=3).returns
    np.testing.assert_array_equal(found, LENGTH * np.array([1, 2, 3, 4, 1, 2, 3, 4]))


def test_columns_of_a_team_share_its_level_in_every_batch():
    """Eight columns of teams of two on two levels, two teams at once."""

    env = teams_of_two()
    algo = pp.make_ppo(env, plain(env), pp.Config(**SIZES))
    state = pp.init_state(algorithm(per_column=True), 0)  # of a network of the same shapes
    policy = pp.training.policy_file.Policy(state.params, state.obs_moments)
    found = pp.evaluate(algo, policy, 1, 8, at_once=4, env_params=columns([1, 2, 3])).returns
    np.testing.assert_array_equal(found, LENGTH * np.array([1, 1, 2, 2, 3, 3, 1, 1]))


@pytest.mark.slow
def test_two_levels_side_by_side_equal_two_runs():
    """They vary together with a hyperparameter."""
    algo, levels, rates = algorithm(), jnp.array([1.0, -3.0]), jnp.array([1e-3, 1e-2])
    states, metrics = pp.sweep(algo, [1], pp.Hyperparams(rates), 3, env_params={"level": levels})
    assert metrics.episode_return_mean.shape == (2, 1, 3)
    for i in range(2):
        alone = pp.train(algo, 1, pp.Hyperparams(rates[i]), 3, env_params={"level": levels[i]})
        pairs = zip(
            jax.tree.leaves((states._replace(key=()), metrics)),
            jax.tree.leaves((alone[0]._replace(key=()), alone[1])),
            strict=True,
        )
        for found, expected in pairs:
            np.testing.assert_allclose(found[i, 0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pp.evaluate(algo, states, 1, 1).returns[:, 0, 0], [LENGTH, -3 * LENGTH])
    np.testing.assert_array_equal(pp.set_env_params(states, {"level": 2}).env_params["level"], [[2], [2]])


@pytest.mark.slow
def test_all_settings_of_a_sweep_may_share_a_level():
    algo, h = algorithm(), pp.Hyperparams(learning_rate=jnp.array([0.0, 1e-3]))
    _, metrics = pp.sweep(algo, [0], h, 1, env_params={"level": 3.0})
    np.testing.assert_allclose(metrics.episode_return_mean[:, 0, 0], 3 * LENGTH)
    with pytest.raises(ValueError, match="env_params has 3 settings, but the hyperparameters have 2"):
        pp.sweep(algo, [0], h, 1, env_params={"level": jnp.ones(3)})


@pytest.mark.slow
def test_a_checkpoint_keeps_the_parameters(tmp_path):
    algo = algorithm(per_column=True, num_devices=2)
    state = pp.set_env_params(pp.init_state(algo, 0), columns([1, 2, 3, 4]))
    pp.save(tmp_path / "run", state, algo=algo)
    again = pp.restore(tmp_path / "run", algo).state
    np.testing.assert_array_equal(again.env_params["level"], [1, 2, 3, 4])
    (after, _), (other, _) = (next(iter(pp.iterate(algo, x, num_updates=1))) for x in (state, again))
    jax.tree.map(np.testing.assert_array_equal, after._replace(key=()), other._replace(key=()))


def test_a_state_without_parameters_has_none_to_set():
    env = make_level({"level": jnp.float32(1)})
    algo = pp.make_ppo(env, plain(env), pp.Config(**SIZES))
    state = pp.init_state(algo, 0)
    assert state.env_params == ()
    with pytest.raises(ValueError, match="set_env_params needs a state of an environment with parameters"):
        pp.set_env_params(state, {"level": 1})
    for call in (
        lambda: pp.init_state(algo, 0, env_params=1),
        lambda: pp.evaluate(algo, state, 0, env_params=1),
        lambda: pp.sweep(algo, [0], env_params=1),
    ):
        with pytest.raises(ValueError, match="env_params: the environment Level has no parameters"):
            call()


def test_wrong_parameters_name_the_leaf():
    state = pp.init_state(algorithm(), 0)
    with pytest.raises(ValueError, match=r"env_params\['level'\] must be float32 \(\), not float32 \(2,\)"):
        pp.set_env_params(state, {"level": jnp.ones(2)})
    with pytest.raises(TypeError, match="set_env_params continues from a TrainState"):
        pp.set_env_params(algorithm(), {"level": 1})


@pytest.mark.slow
def test_a_run_against_two_opponents_is_one_program():
    """The reward is 1 if the action exceeds that of the opponent, whose parameter is its action."""

    def reset(key):
        return jnp.int32(0), jnp.zeros((2, 2))

    def step(key, time, action):
        mine = jnp.sign(action[0] - action[1]).astype(jnp.float32)
        obs = jnp.zeros((2, 2))
        return time + 1, TimeStep(obs, jnp.stack([mine, -mine]), time >= 2, jnp.bool_(False), obs)

    def fixed(params, key, obs):
        return jnp.broadcast_to(params, obs.shape[:2]).astype(jnp.int32)

    duel = frozen_opponent(Env(reset, step, box(0, 1, (2,)), Discrete(2)), 2, fixed, 0.0)
    algo = pp.make_ppo(duel, plain(duel), pp.Config(**SIZES))
    state = pp.init_state(algo, 0)
    with count_compiles() as compiles:
        (state, weak), *_ = pp.iterate(algo, state, num_updates=1, chunk=1)
        state = pp.set_env_params(state, OpponentParams(1.0))
        (state, strong), *_ = pp.iterate(algo, state, num_updates=1, chunk=1)
    assert compiles["_chunk"] == 1
    assert weak.episode_return_min[0] >= 0 >= strong.episode_return_max[0]
    assert pp.evaluate(algo, state, 1, 4).returns.max() <= 0
