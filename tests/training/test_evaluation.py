"""Evaluation: the first episodes of fresh environments, with independent noise, and no silent cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_net import plain
from probes import endless, reward_by_action, reward_is_observation, scripted
from two_agents import two_agents

import purejaxppo as pp
from purejaxppo import Config
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.agents import fold_agents, frozen_opponent
from purejaxppo.training import evaluation
from purejaxppo.training.policy_file import Policy

CONFIG = Config(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1, total_timesteps=8)


def ready(env, **config):
    algo = pp.make_ppo(env, plain(env), Config(**(vars(CONFIG) | config)))
    return algo, pp.init_state(algo, jax.random.key(0))


def always(state, action):
    """Return the state with a policy that always takes one action: its logit is far above the others."""
    params = dict(state.params)
    params["actor_w1"] = jnp.zeros_like(params["actor_w1"])
    params["actor_b1"] = jnp.zeros_like(params["actor_b1"]).at[action].set(50.0)
    return state._replace(params=params)


def test_only_the_first_episode_counts_and_nothing_after_it():
    """Rewards are 100 t + action and the episode ends at t = 3: the return is 100 + 200 + 300 + 3 a."""
    algo, state = ready(scripted(terminate_at=(3,), truncate_at=()))
    result = pp.evaluate(algo, always(state, 2), jax.random.key(1), num_episodes=5, max_steps=20)
    np.testing.assert_array_equal(result.returns, 606.0)
    np.testing.assert_array_equal(result.lengths, 3)
    assert result.finished.all()


def test_a_batch_is_played_up_to_the_end_of_each_first_episode():
    """A VecEnv resets itself; the steps of the next episode do not count."""
    algo, state = ready(auto_reset(scripted(terminate_at=(3,), truncate_at=())))
    result = pp.evaluate(algo, always(state, 2), jax.random.key(1), num_episodes=5, max_steps=20)
    np.testing.assert_array_equal(result.returns, 606.0)
    np.testing.assert_array_equal(result.lengths, 3)
    assert result.finished.all()
    recording = pp.record(algo, always(state, 2), jax.random.key(1), num_steps=4)
    np.testing.assert_array_equal(recording.done, [False, False, True, False])


def test_episodes_of_a_team_are_played_in_whole_teams(monkeypatch):
    """An odd number of columns of teams of two, in one batch and in batches of one team."""
    pair = two_agents(scripted(terminate_at=(3,), truncate_at=()), lambda reward, action: (reward, reward + 1.0))
    algo, state = ready(fold_agents(pair, 2))
    for limit, count in ((evaluation.BATCH_EPISODES, 3), (2, 5)):
        monkeypatch.setattr(evaluation, "BATCH_EPISODES", limit)
        result = pp.evaluate(algo, always(state, 2), jax.random.key(1), num_episodes=count, max_steps=20)
        np.testing.assert_array_equal(result.returns, [606.0, 609.0, 606.0, 609.0, 606.0][:count])


def test_a_frozen_opponent_acts_in_the_episodes_of_an_evaluation():
    """The action of the opponent, 1 in each of three steps, is subtracted from the rewards 102, 202, 302."""

    def constant(params, key, obs):
        return jnp.broadcast_to(params, obs.shape[:2])

    def rewards(reward, action):
        mine = reward - action[1].astype(jnp.float32)
        return mine, -mine

    match = two_agents(scripted(terminate_at=(3,), truncate_at=()), rewards)
    algo, state = ready(frozen_opponent(match, 2, constant, jnp.int32(1)))
    result = pp.evaluate(algo, always(state, 2), jax.random.key(1), num_episodes=3, max_steps=20)
    np.testing.assert_array_equal(result.returns, 606.0 - 3.0)


def test_truncation_ends_an_episode_and_max_steps_leaves_it_unfinished():
    algo, state = ready(endless(limit=6))
    done = pp.evaluate(algo, state, jax.random.key(1), num_episodes=3, max_steps=20)
    cut = pp.evaluate(algo, state, jax.random.key(1), num_episodes=3, max_steps=4)
    np.testing.assert_array_equal(done.returns, 6.0)
    assert done.finished.all()
    np.testing.assert_array_equal(cut.lengths, 4)
    assert not cut.finished.any()


def test_greedy_takes_the_mode_and_sampling_the_whole_policy():
    algo, state = ready(reward_by_action())
    params = dict(state.params)
    params["actor_w1"] = jnp.zeros_like(params["actor_w1"])
    params["actor_b1"] = jnp.log(jnp.array([0.25, 0.75]))  # action 1 pays 1, action 0 pays -1
    state = state._replace(params=params)
    greedy = pp.evaluate(algo, state, jax.random.key(1), num_episodes=4000)
    sampled = pp.evaluate(algo, state, jax.random.key(2), num_episodes=4000, greedy=False)
    np.testing.assert_array_equal(greedy.returns, 1.0)
    assert abs(sampled.returns.mean() - 0.5) < 0.06


def test_observation_statistics_are_those_of_the_state():
    """If the statistics map every observation to 0, the biases of the network decide, otherwise its weights."""
    algo, state = ready(reward_by_action(), normalize_observations=True)
    moments = state.obs_moments._replace(mean=jnp.ones(1), var=jnp.ones(1), count=jnp.float32(10))
    params = dict(state.params)
    params |= {"actor_w0": jnp.full((1, 4), 10.0), "actor_b0": jnp.zeros(4)}
    params |= {"actor_w1": jnp.tile(jnp.array([[5.0, -5.0]]), (4, 1)), "actor_b1": jnp.array([0.0, 1.0])}
    seen = state._replace(params=params, obs_moments=moments)
    assert pp.evaluate(algo, seen, jax.random.key(1), num_episodes=4).returns.tolist() == [1.0] * 4  # obs 1 -> 0
    raw, _ = ready(reward_by_action())
    assert pp.evaluate(raw, seen, jax.random.key(1), num_episodes=4).returns.tolist() == [-1.0] * 4


def test_a_recording_is_one_episode_step_by_step():
    algo, state = ready(scripted(terminate_at=(3,), truncate_at=()))
    tape = pp.record(algo, always(state, 1), jax.random.key(1), num_steps=3)
    np.testing.assert_array_equal(tape.reward, [101.0, 201.0, 301.0])
    np.testing.assert_array_equal(tape.done, [False, False, True])
    np.testing.assert_array_equal(tape.obs[:, 1], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(tape.env_state.time, [0, 1, 2])


def test_steps_after_the_end_of_an_episode_do_not_count():
    """Episodes of 1 to 6 steps; a step after the end pays -100, because nothing is reset."""

    def reset(key):
        return (jax.random.randint(key, (), 1, 7), jnp.int32(0)), jnp.zeros(1)

    def step(key, state, action):
        length, time = state
        reward = jnp.where(time < length, jnp.float32(1), jnp.float32(-100))
        return (length, time + 1), TimeStep(jnp.zeros(1), reward, time + 1 == length, jnp.bool_(False), jnp.zeros(1))

    algo, state = ready(Env(reset, step, box(-1, 1, (1,)), Discrete(2)))
    result = pp.evaluate(algo, state, jax.random.key(1), num_episodes=40, max_steps=20)
    assert set(result.lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(result.returns, result.lengths.astype(jnp.float32))
    assert result.finished.all()


# --- noise ------------------------------------------------------------------------------------------------------------


def noisy(pays):
    """Make an environment of three steps whose reward is random, or the action."""

    def reset(key):
        return jnp.int32(0), jnp.zeros(1)

    def step(key, time, action):
        reward = jax.random.normal(key) if pays == "noise" else action[0]
        return time + 1, TimeStep(jnp.zeros(1), reward, time == 2, jnp.bool_(False), jnp.zeros(1))

    return Env(reset, step, box(0, 1, (1,)), box(-np.inf, np.inf, (1,)))


@pytest.mark.parametrize("pays", ["noise", "action"])
def test_noise_differs_from_step_to_step_and_from_episode_to_episode(pays):
    algo, state = ready(noisy(pays))
    returns = np.asarray(pp.evaluate(algo, state, 1, num_episodes=1000, greedy=False).returns)
    assert len(np.unique(returns)) > 990
    # The sum of three independent numbers has √3 times the deviation of one, that of three equal ones 3 times.
    deviation = 1.0 if pays == "noise" else float(jnp.exp(state.params["log_std"][0]))
    np.testing.assert_allclose(returns.std(), np.sqrt(3) * deviation, rtol=0.1)
    assert np.isin(pp.evaluate(algo, state, 2, num_episodes=1000, greedy=False).returns, returns).sum() < 10
    tape = pp.record(algo, state, 1, num_steps=8, greedy=False)
    steps = np.asarray(tape.reward if pays == "noise" else tape.action)
    assert len(np.unique(steps)) == 8


def test_first_states_differ_from_episode_to_episode():
    algo, state = ready(reward_is_observation())
    returns = pp.evaluate(algo, state, 1, num_episodes=200).returns
    assert 0.3 < (returns > 0).mean() < 0.7


# --- unfinished episodes and faults -----------------------------------------------------------------------------------


def test_a_warning_says_how_many_episodes_were_cut_unless_the_limit_was_chosen(monkeypatch):
    algo, state = ready(endless(limit=6))
    monkeypatch.setattr(evaluation, "MAX_STEPS", 4)
    with pytest.warns(pp.RunWarning, match="3 of 3 episodes had not ended after 4 steps"):
        cut = pp.evaluate(algo, state, 1, num_episodes=3)
    assert cut.num_unfinished == 3
    assert pp.evaluate(algo, state, 1, num_episodes=3, max_steps=5).num_unfinished == 3
    assert pp.evaluate(algo, state, 1, num_episodes=3, max_steps=6).num_unfinished == 0


def faulty(kind, at=2):
    """Make an environment with a NaN in the observation or reward of step `at` in half of the episodes of 5 steps."""

    def reset(key):
        return (jnp.int32(0), jax.random.bernoulli(key)), jnp.zeros(1)

    def step(key, state, action):
        time, breaks = state
        value = jnp.where((time == at) & breaks, jnp.float32(jnp.nan), jnp.float32(1))
        obs = value[None] if kind == "observation" else jnp.zeros(1)
        reward = value if kind == "reward" else jnp.float32(1)
        return (time + 1, breaks), TimeStep(obs, reward, time == 4, jnp.bool_(False), obs)

    return Env(reset, step, box(-1, 1, (1,)), Discrete(2), "Faulty-v0")


@pytest.mark.parametrize(("kind", "step"), [("observation", 3), ("reward", 2)])
def test_the_error_names_an_environment_that_returns_nan(kind, step):
    """A faulty episode stops before its fault and is unfinished; no result is NaN."""
    algo, state = ready(faulty(kind))
    with pytest.raises(
        pp.RunError, match=rf"Faulty-v0 returned a NaN or infinite {kind} in \d+ of 20 .* step {step} of an ep"
    ) as error:
        pp.evaluate(algo, state, 1, num_episodes=20)
    result = error.value.result
    bad = np.asarray(result.fault) > 0
    assert 2 < bad.sum() < 18
    np.testing.assert_array_equal(result.returns, np.where(bad, step, 5.0))
    np.testing.assert_array_equal(result.lengths, np.where(bad, step, 5))
    np.testing.assert_array_equal(result.finished, ~bad)
    assert result.num_unfinished == bad.sum()
    assert error.value.fault.count == bad.sum()


def test_a_terminal_state_may_allow_nothing():
    """Jumanji's terminal states have an empty mask; the episodes that have ended wait for the others."""

    def reset(key):
        return (jnp.int32(0), jax.random.randint(key, (), 1, 5)), show(jnp.bool_(False))

    def show(end):
        return {"observation": jnp.zeros(1), "action_mask": jnp.broadcast_to(~end, (2,))}

    def step(key, state, action):
        time, length = state
        end = time + 1 >= length
        obs = show(end)
        return (time + 1, length), TimeStep(obs, jnp.float32(1), end, jnp.bool_(False), obs)

    flags = box(0, 1, (2,), bool)
    env = Env(reset, step, {"observation": box(0, 1, (1,)), "action_mask": flags}, Discrete(2))
    algo = pp.make_ppo(env, pp.mlp(env, (2,)), CONFIG)
    result = pp.evaluate(algo, pp.init_state(algo, 0), 1, num_episodes=20)
    assert set(result.lengths.tolist()) == {1, 2, 3, 4}
    assert result.finished.all()


def test_a_policy_that_is_not_finite_is_refused_before_it_plays():
    algo, state = ready(endless(limit=6))
    params = state.params | {"actor_b0": jnp.array([0.0, jnp.nan, jnp.inf, 1.0])}
    with pytest.raises(pp.RunError, match="the policy has 2 parameters that are NaN or infinite") as error:
        pp.evaluate(algo, state._replace(params=params), 1, num_episodes=3)
    np.testing.assert_array_equal(error.value.result.lengths, 0)


# --- many episodes and many policies ----------------------------------------------------------------------------------


def test_very_many_episodes_are_played_in_batches_that_fit(monkeypatch):
    """The size of a batch follows from the bytes of an environment; 25 episodes in batches of 7 all differ."""
    algo, state = ready(noisy("noise"))
    bytes_per_episode = 4 + 4  # int32 time, float32 observation
    monkeypatch.setattr(evaluation, "BATCH_BYTES", 7 * bytes_per_episode)
    assert evaluation.episodes_at_once(evaluation._player(algo)) == 7
    result = pp.evaluate(algo, state, 1, num_episodes=25, max_steps=11)
    assert result.returns.shape == (25,)
    assert len(np.unique(result.returns)) == 25
    assert (result.lengths == 3).all()
    monkeypatch.setattr(evaluation, "BATCH_EPISODES", 2)
    assert evaluation.episodes_at_once(evaluation._player(algo)) == 2


def test_each_of_several_policies_is_played_with_its_parameters_and_key():
    algo, state = ready(scripted(terminate_at=(3,), truncate_at=()))
    states = [always(state, action) for action in (0, 1, 2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *((s.params, s.obs_moments) for s in states))
    result = pp.evaluate(algo, Policy(*stacked), 1, num_episodes=4, max_steps=9)
    np.testing.assert_array_equal(result.returns, np.full((3, 4), 600.0) + 3 * np.arange(3)[:, None])
    assert result.num_unfinished.tolist() == [0, 0, 0]
    with pytest.raises(
        ValueError, match=r"record plays one policy; pick it with jax.tree.map\(lambda x: x\[0\], state"
    ):
        pp.record(algo, Policy(*stacked), 1)
