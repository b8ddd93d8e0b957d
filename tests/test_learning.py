"""Learning: probes with known values, a quick gate, and the published tasks over 16 seeds (slow)."""

import dataclasses
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from compiles import count_compiles
from learning import COMBINATIONS, FEED_FORWARD, GATES, OTHER_TASKS, RECIPES, combination, learn, recipe, row

import purejaxppo as pp
from purejaxppo import Config, Hyperparams
from purejaxppo.envs import Discrete, Env, MultiDiscrete, TimeStep, box
from purejaxppo.envs.wrappers import OpponentParams, fold_agents, frozen_opponent
from purejaxppo.training.loop import as_traced

CONFIG = Config(num_envs=32, num_steps=16, num_epochs=4, num_minibatches=4, total_timesteps=512 * 60)
H = Hyperparams(2e-2, gamma=0.9, ent_coef=0.0)


def trained(env, config=CONFIG, h=H):
    algo = pp.make_ppo(env, pp.mlp(env, (16, 16)), config)
    state, metrics = pp.train(algo, jax.random.key(0), h)
    return algo, state, metrics


def value(algo, state, *observations):
    obs = jnp.asarray(observations, jnp.float32)[None]
    return np.asarray(algo.network.apply(state.params, (), obs, jnp.zeros(obs.shape[:2], bool))[2][0])


def test_values_of_a_never_ending_task_under_a_time_limit():
    """Reward 1 forever, truncated every 10 steps: V = 1/(1-γ) = 10; the truncated sum is at most 1 - γ¹⁰ of it."""
    algo, state, _ = trained(probes.endless(limit=10))
    np.testing.assert_allclose(value(algo, state, [1.0]), 10.0, rtol=0.02)


def test_a_constant_reward_is_the_value():
    algo, state, _ = trained(probes.constant_reward())
    np.testing.assert_allclose(value(algo, state, [1.0]), 1.0, atol=0.02)


def test_the_value_follows_the_observation():
    algo, state, _ = trained(probes.reward_is_observation())
    np.testing.assert_allclose(value(algo, state, [-1.0], [1.0]), [-1.0, 1.0], atol=0.05)


def test_the_better_action_is_taken():
    algo, state, _ = trained(probes.reward_by_action())
    assert pp.evaluate(algo, state, jax.random.key(1), num_episodes=100).returns.mean() == 1.0
    np.testing.assert_allclose(value(algo, state, [1.0]), 1.0, atol=0.05)


@pytest.mark.slow
def test_two_steps_are_discounted():
    algo, state, _ = trained(probes.two_steps())
    np.testing.assert_allclose(value(algo, state, [0.0], [1.0]), [0.9, 1.0], atol=0.03)


@pytest.mark.slow
def test_value_and_policy_depend_on_the_observation():
    algo, state, _ = trained(probes.reward_by_action_and_observation())
    assert pp.evaluate(algo, state, jax.random.key(1), num_episodes=500).returns.mean() == 1.0
    np.testing.assert_allclose(value(algo, state, [-1.0], [1.0]), 1.0, atol=0.05)


@pytest.mark.slow
def test_continuous_actions_find_the_target():
    """Reward -(a - ½)²: the mean action is ½ in both dimensions, and the noise shrinks."""
    config = Config(**(vars(CONFIG) | {"total_timesteps": 512 * 150}))
    algo, state, _ = trained(probes.reward_by_distance(action_dim=2), config, H._replace(learning_rate=5e-3))
    _, distribution, _ = algo.network.apply(state.params, (), jnp.ones((1, 1, 1)), jnp.zeros((1, 1), bool))
    np.testing.assert_allclose(distribution.mode()[0, 0], 0.5, atol=0.05)
    assert (distribution.log_std < -1.0).all()


def test_a_five_state_mdp_is_solved_to_99_percent_of_the_optimum():
    """Compared with the exact J* of policy iteration; the value of the learned policy is exact too."""
    tabular, gamma = probes.chain_tabular(), 0.95
    config = Config(**(vars(CONFIG) | {"total_timesteps": 512 * 150}))
    algo, state, _ = trained(probes.chain(tabular), config, Hyperparams(1e-2, gamma=gamma, ent_coef=0.05))
    obs = jnp.eye(5)[None]
    _, distribution, _ = algo.network.apply(state.params, (), obs, jnp.zeros((1, 5), bool))
    greedy = np.eye(2)[np.asarray(distribution.mode()[0])]
    best = tabular.start @ tabular.value(tabular.best_policy(gamma), gamma)
    assert tabular.start @ tabular.value(greedy, gamma) >= 0.99 * best
    left = np.eye(2)[np.zeros(5, int)]  # the policy of a greedy learner: .1 at once, forever
    assert tabular.start @ tabular.value(left, gamma) < 0.8 * best


def crossed(joint: bool) -> Env:
    """Make a team of two that gets 1/2 for each agent that names the number of the other; 4 steps, best return 4.

    Each agent sees both numbers, its own first. In the joint form one policy sees what the first agent sees, and
    chooses for both.
    """

    def observe(numbers):
        both = jnp.stack([numbers, numbers[::-1]])
        rows = jax.nn.one_hot(both, 3, dtype=jnp.float32).reshape(2, 6)
        return rows[0] if joint else rows

    def reset(key):
        numbers = jax.random.randint(key, (2,), 0, 3, jnp.int32)
        return (numbers, jnp.int32(0)), observe(numbers)

    def step(key, state, action):
        numbers, time = state
        reward = (action == numbers[::-1]).astype(jnp.float32).mean()
        after = jax.random.randint(key, (2,), 0, 3, jnp.int32)
        obs = observe(after)
        reward = reward if joint else jnp.stack([reward, reward])
        return (after, time + 1), TimeStep(obs, reward, time == 3, jnp.bool_(False), obs)

    return Env(reset, step, box(0.0, 1.0, (6,)), MultiDiscrete((3, 3)) if joint else Discrete(3))


@pytest.mark.slow
def test_a_team_reaches_the_return_of_its_joint_form():
    """Agents folded into the batch axis share a policy; the joint form has one that acts for both."""
    folded, joint = fold_agents(crossed(joint=False), 2), crossed(joint=True)
    results = []
    for env, num_envs in ((folded, 64), (joint, 32)):  # 32 teams each
        config = dataclasses.replace(CONFIG, num_envs=num_envs, total_timesteps=num_envs * 16 * 60)
        algo, state, _ = trained(env, config)
        results.append(pp.evaluate(algo, state, jax.random.key(1), num_episodes=64).returns.mean())
    np.testing.assert_allclose(results, 4.0, atol=0.05)


def match() -> Env:
    """Make a game of two over 4 steps: 1 for naming the other's number, which is its parameter; reward [2]."""

    def reset(key):
        return jnp.int32(0), jnp.ones((2, 1))

    def step(key, time, action):
        mine = (action[0] == action[1]).astype(jnp.float32)
        obs = jnp.ones((2, 1))
        return time + 1, TimeStep(obs, jnp.stack([mine, -mine]), time == 3, jnp.bool_(False), obs)

    return Env(reset, step, box(0.0, 1.0, (1,)), Discrete(3))


@pytest.mark.slow
def test_training_goes_on_against_another_opponent_without_a_recompilation():
    """A policy learns the number of one opponent, then that of another; the update is compiled once."""
    env = frozen_opponent(match(), 2, lambda number, key, obs: jnp.broadcast_to(number, obs.shape[:2]), jnp.int32(0))
    algo = pp.make_ppo(env, pp.mlp(env, (8,)), dataclasses.replace(CONFIG, num_envs=8, total_timesteps=128 * 60))
    h = as_traced(H._replace(lr_anneal=0.0, ent_coef=0.02))
    state = pp.init_state(algo, 0, h)
    returns = []
    with count_compiles() as compiles:
        update = jax.jit(algo.update)
        for number in (1, 2):
            state = pp.set_env_params(state, OpponentParams(number))
            for _ in range(30):
                state, metrics = update(state, h)
            returns.append(metrics.episode_return_mean)
    assert min(returns) > 3.5, returns  # of 4
    assert compiles["update"] == 1


@pytest.mark.slow
def test_cartpole_quick_gate():
    """100k steps, 4 seeds: far above the 20 of a random policy on every seed."""
    result = learn("cartpole", 4, config={"total_timesteps": 100_000})
    assert result.iqm >= 450, result
    assert result.greedy.min() >= 200, result


@pytest.mark.slow
@pytest.mark.parametrize(("name", "gate"), GATES.items())
def test_gates_over_16_seeds(name, gate):
    """Interquartile mean of the greedy evaluation, config as shipped."""
    result = learn(name, 16)
    print(f"{name}: IQM {result.iqm:.2f} {result.interval}, {result.seconds:.0f} s, seeds {np.sort(result.greedy)}")
    assert result.iqm >= gate, result


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(COMBINATIONS)), ids=[name for name, _, _ in COMBINATIONS])
def test_every_objective_with_every_control_solves_cartpole(index):
    """Interquartile mean over 8 seeds at 300k steps."""
    for label, result in combination(index, 8).items():
        print(row(label, 300_000, result))
        assert result.iqm >= 475, (label, result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gate"), [("cartpole_trpo", 475.0), ("cartpole_kl", 475.0), ("pendulum_trpo", -300.0)]
)
def test_the_other_shipped_configs_learn(name, gate):
    """TRPO on a discrete and a continuous task, PPO-KL, as shipped; 8 seeds."""
    result = learn(name, 8)
    print(f"{name}: IQM {result.iqm:.2f} {result.interval}, seeds {np.sort(result.greedy)}")
    assert result.iqm >= gate, result


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHER_TASKS)
def test_other_networks_and_actions(case):
    name, changes, seeds, low, high = OTHER_TASKS[case]
    result = learn(name, seeds, **changes)
    print(f"{case}: IQM {result.iqm:.2f} {result.interval}, {result.seconds:.0f} s, seeds {np.sort(result.greedy)}")
    assert low <= result.iqm <= high, result


@pytest.mark.slow
@pytest.mark.parametrize("label", RECIPES)
def test_recipes_learn_what_they_promise(label):
    """RND solves a task on which PPO alone finds no reward; muon and next-observation prediction do not harm."""
    *_, low, high = RECIPES[label]
    result = recipe(label)
    print(f"{label}: IQM {result.iqm:.2f} {result.interval}, {result.seconds:.0f} s, seeds {np.sort(result.greedy)}")
    assert low <= result.iqm <= high, result


@pytest.mark.slow
def test_a_curriculum_finds_the_goal_that_ppo_alone_does_not(monkeypatch, capsys):
    """The script as it is, with the result of docs/results.md: 0.00 from the far end, 1.00 by a curriculum."""
    script = Path(__file__).parents[1] / "docs" / "recipes" / "curriculum.py"
    monkeypatch.setattr(sys, "argv", [str(script), "0"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed == "seed 0: direct 0.00, curriculum 1.00 (40 cells)\n"


@pytest.mark.slow
def test_memory_quick_gate():
    """The last action must repeat a bit shown at the first step: a GRU learns to keep it, an MLP cannot."""
    with_memory = learn("memory_chain_gru", 2)
    assert with_memory.greedy.min() >= 0.9, with_memory
    without = learn("memory_chain_gru", 2, **FEED_FORWARD)
    assert np.abs(without.greedy).max() <= 0.35, without  # of 128 episodes of ±1: sd 0.09
