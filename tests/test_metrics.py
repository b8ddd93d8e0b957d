"""Every metric of an iteration compared with NumPy float64, computed from the rollout and the formulas."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import quick_jit

import purejaxppo as pp
from purejaxppo import ppo
from purejaxppo.envs.spaces import Discrete
from purejaxppo.envs.wrappers.episodes import time_limit
from purejaxppo.metrics import count_nonfinite, rollout_faults
from purejaxppo.training.loop import as_traced
from purejaxppo.types import Transition

GAMMA, LAMBDA, EPS, ENT, VF = 0.9, 0.8, 0.2, 0.01, 0.5


def f64(x):
    return np.asarray(x, np.float64)


@cache
def played():
    """Return (metrics, rollout with normalized observations, policy outputs before, between and after, V(s'))."""
    env = time_limit(
        pp.make("CartPole-v1"), 17
    )  # some episodes are truncated, so that V(s') of a normalized observation matters
    network = pp.mlp(env, (16,))
    h = as_traced(pp.Hyperparams(0.3, gamma=GAMMA, gae_lambda=LAMBDA, ent_coef=ENT, lr_anneal=0.0))
    results = []
    for epochs in (1, 2):
        config = pp.Config(8, 64, epochs, 1, 512 * 10, normalize_observations=True)
        algo = pp.make_ppo(env, network, config)
        components = algo.components

        @quick_jit
        def run(key, algo=algo, components=components):
            state = algo.init(key, h)
            seen = 3.0 + 2.0 * jax.random.normal(key.copy(), (50, 4))
            moments = ppo.running_stats.update_moments(state.obs_moments, seen)
            state = state._replace(obs_moments=moments)
            _, rollout = ppo.collect_rollout(components, state, jax.random.split(state.key, 3)[1])
            after, metrics = algo.update(state, h)
            obs, final = (ppo.observe(components, state, x) for x in (rollout.obs, rollout.final_obs))
            return state.params, after.params, metrics, rollout._replace(obs=obs, final_obs=final)

        with jax.debug_key_reuse(False):  # the rollout is played twice
            results.append(run(jax.random.key(1)))
    (before, between, _, rollout), (_, after, metrics, _) = results

    def outputs(params, obs):
        _, distribution, value = network.apply(params, (), obs, jnp.zeros(obs.shape[:2], bool))
        return f64(jax.nn.log_softmax(distribution.logits)), f64(value)

    policies = [outputs(params, rollout.obs) for params in (before, between, after)]
    return metrics, rollout, policies, outputs(before, rollout.final_obs)[1], network, before


@cache
def figures():
    """Return the expected metrics: two steps on one minibatch, at π_old and at the policy between."""
    _, rollout, ((L0, V), (L1, V1), (L2, _)), next_values, *_ = played()
    reward, ended = f64(rollout.reward), np.asarray(rollout.terminated | rollout.truncated)
    advantage, total = np.zeros_like(V), np.zeros(V.shape[1])
    for t in reversed(range(len(V))):
        delta = reward[t] + GAMMA * ~np.asarray(rollout.terminated)[t] * next_values[t] - V[t]
        total = delta + GAMMA * LAMBDA * ~ended[t] * total
        advantage[t] = total
    target = advantage + V
    normalised = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    def taken(L):
        return np.take_along_axis(L, np.asarray(rollout.action)[..., None], -1)[..., 0]

    between, after = np.exp(taken(L1) - taken(L0)), np.exp(taken(L2) - taken(L0))
    surrogate = np.minimum(between * normalised, np.clip(between, 1 - EPS, 1 + EPS) * normalised).mean()
    entropy = np.mean([-(np.exp(L) * L).sum(-1).mean() for L in (L0, L1)])
    value_loss = np.mean([((v - target) ** 2).mean() for v in (V, V1)])
    policy_loss = -(normalised.mean() + surrogate) / 2
    return {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "total_loss": policy_loss + VF * value_loss - ENT * entropy,
        "clip_fraction": np.where(normalised > 0, between > 1 + EPS, between < 1 - EPS).mean() / 2,
        "max_ratio": between.max(),
        "first_ratio_error": 0.0,
        "minibatch_steps": 2,
        "kl": (np.exp(L0) * (L0 - L2)).sum(-1).mean(),
        "kl_k3": (after - 1 - np.log(after)).mean(),
        "explained_variance": 1 - (target - V).var() / target.var(),
        "advantage_std": advantage.std(),
        "masked_states": 0,
        "nonfinite_observations": 0,
        "nonfinite_rewards": 0,
        "first_fault_step": -1,
        "quarantined": 0,
        "lost_final_observations": 0,
        "first_fault_env": -1,
        "skipped_steps": 0,
        "skip_cause": 0,
        "skipped_updates": 0,
        "stalled": 0,
        "nonfinite_parameters": 0,
        "learning_rate": 0.3,
        "clip_eps": EPS,
    } | episodes(reward, ended)


def episodes(reward, ended):
    returns, lengths, start = [], [], np.zeros(reward.shape[1], int)
    for t, n in np.argwhere(ended):
        returns.append(reward[start[n] : t + 1, n].sum())
        lengths.append(t + 1 - start[n])
        start[n] = t + 1
    numbers = {"num_episodes": len(returns)}
    for name, x in (("return", returns), ("length", lengths)):
        numbers |= {f"episode_{name}_mean": np.mean(x), f"episode_{name}_min": min(x), f"episode_{name}_max": max(x)}
    return numbers


def test_the_example_distinguishes_faults():
    """Ratios on both sides of the clip range, several lengths, truncations: otherwise equality would show little."""
    _, rollout, ((L0, _), (L1, _), _), *_ = played()
    ratio = np.exp(np.take_along_axis(L1 - L0, np.asarray(rollout.action)[..., None], -1))
    assert (ratio > 1 + EPS).mean() > 0.05
    assert (ratio < 1 - EPS).mean() > 0.05
    found = figures()
    assert rollout.truncated.sum() >= 5
    assert rollout.terminated.sum() >= 5
    assert found["kl"] > 0.1  # so that its estimators differ
    assert found["episode_length_min"] < found["episode_length_mean"] < found["episode_length_max"]
    assert abs(found["explained_variance"] - 0.5) > 0.01  # so that 1 - x differs


@pytest.mark.parametrize("name", sorted(set(pp.Metrics._fields) - {"grad_norm", "beta", "diagnostics", "extra"}))
def test_a_metric_equals_its_definition(name):
    atol = 1e-5 if name in ("policy_loss", "first_ratio_error") else 1e-7
    np.testing.assert_allclose(getattr(played()[0], name), figures()[name], rtol=1e-3, atol=atol)


# ---- faults of the environment


def faulty(rollout, **changes):
    """Fault metrics of a rollout with T = 3, N = 2, a mask over 2 actions, and the given leaves replaced."""
    obs = {"action_mask": jnp.ones((3, 2, 2), bool), "x": jnp.zeros((3, 2, 4))}
    leaves = {"obs": obs, "final_obs": obs, "reward": jnp.zeros((3, 2))} | changes
    return rollout_faults(rollout._replace(**leaves), Discrete(2))


def test_faults_of_the_environment_are_distinguished_and_the_first_is_located():
    """One masked state at step 2, one infinite observation at step 1, two NaN rewards at step 0."""
    rollout = Transition(*[None] * len(Transition._fields))
    obs = {"action_mask": jnp.ones((3, 2, 2), bool).at[2, 1].set(False), "x": jnp.zeros((3, 2, 4))}
    final = {"action_mask": obs["action_mask"], "x": obs["x"].at[1, 0, 3].set(jnp.inf)}
    none = faulty(rollout)
    assert [float(x) for x in none.values()] == [0.0, 0.0, 0.0, -1.0, -1.0, 0.0]
    assert [float(x) for x in faulty(rollout, obs=obs).values()] == [1.0, 0.0, 0.0, 2.0, 1.0, 0.0]
    assert [float(x) for x in faulty(rollout, final_obs=final).values()] == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    reward = jnp.zeros((3, 2)).at[0].set(jnp.nan)
    found = faulty(rollout, obs=obs, final_obs=final, reward=reward)
    counts = ["masked_states", "nonfinite_observations", "nonfinite_rewards"]
    assert list(found) == [*counts, "first_fault_step", "first_fault_env", "lost_final_observations"]
    assert [float(x) for x in found.values()] == [1.0, 1.0, 2.0, 0.0, 0.0, 0.0]


def test_parameters_that_are_not_finite_are_counted():
    assert count_nonfinite({"a": jnp.array([1.0, jnp.nan]), "b": jnp.array([[jnp.inf, -jnp.inf]])}) == 3.0
    assert count_nonfinite({"a": jnp.zeros(3)}) == 0.0
