"""`on_nonfinite = "quarantine"`: what is NaN or infinite is reset, counted, and without effect on what is learned."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optimizations import short_jit
from plain_net import plain
from slow import slow_except

import purejaxppo as pp
from purejaxppo import Config, Hyperparams, ppo
from purejaxppo.config.errors import ConfigError
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.envs.wrappers.agents import fold_agents
from purejaxppo.training.loop import as_traced

LIMIT, BREAK = 5, 3  # steps of an episode; the step after which a broken one returns what is not finite
CONFIG = Config(
    num_envs=6, num_steps=16, num_epochs=2, num_minibatches=2, total_timesteps=96 * 4, on_nonfinite="quarantine"
)
H = as_traced(Hyperparams(1e-2, gamma=0.9, gae_lambda=0.8))


def breaking(kind, value=jnp.nan, agents=()):
    """Reward 1 a step for LIMIT steps; in four of ten episodes step BREAK returns `value`, and so does all the rest."""

    def reset(key):
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], (*agents, 2))
        return (x, jnp.int32(0), jax.random.bernoulli(keys[1], 0.4)), x

    def step(key, state, action):
        x, time, broken = state
        x = jnp.where(broken & (time + 1 >= BREAK), value, 0.9 * x)
        obs = x if kind == "observation" else jnp.zeros_like(x)
        reward = 1.0 + 0.0 * x[..., 0] if kind == "reward" else jnp.ones(agents)
        return (x, time + 1, broken), TimeStep(obs, reward, jnp.bool_(False), time + 1 == LIMIT, obs)

    return Env(reset, step, box(-10, 10, (2,)), Discrete(2), "Breaking-v0")


@cache
def played(kind, value=jnp.nan, resets="fresh"):
    """(state, TimeSteps [T, N] with the flag, observations before them) of the batch."""
    vec = auto_reset(breaking(kind, value), resets, quarantine=True)

    @short_jit
    def run(key):
        keys = jax.random.split(key)
        env_state, obs = vec.reset(keys[0], 8)

        def step(carry, noise):
            env_state, ts = vec.step(noise, carry[0], jnp.zeros(8, jnp.int32))
            return (env_state, ts.obs), (ts, carry[1])

        return jax.lax.scan(step, (env_state, obs), vec.noise(keys[1], 40, 8))

    (state, _), (steps, before) = run(jax.random.key(1))
    return jax.tree.map(np.asarray, (state, steps, before))


@pytest.mark.parametrize("resets", ["fresh", "state_pool"])
@pytest.mark.parametrize(("kind", "value"), [("observation", np.nan), ("observation", -np.inf), ("reward", np.nan)])
def test_a_broken_environment_is_reset_and_its_step_is_marked(kind, value, resets):
    """Every other episode lasts LIMIT steps with reward 1; nothing that is not finite comes out."""
    state, steps, _ = played(kind, value, resets)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((steps, state)) if x.dtype == np.float32)
    assert steps.quarantined.sum() > 10
    np.testing.assert_array_equal(steps.truncated & ~steps.terminated, steps.truncated)
    assert steps.truncated[steps.quarantined].all()
    np.testing.assert_array_equal(steps.reward, np.where(steps.quarantined, 0.0, 1.0))
    for n in range(8):
        ends = np.flatnonzero(steps.truncated[:, n])
        lengths = np.diff(ends, prepend=-1)
        np.testing.assert_array_equal(lengths, np.where(steps.quarantined[ends, n], BREAK, LIMIT))


def test_an_environment_that_does_not_break_is_not_changed_by_looking():
    """Bitwise the same steps with and without, and no step is marked."""
    env = breaking("observation", 0.5)
    noise_key, state_key = jax.random.split(jax.random.key(3))
    found = []
    for quarantine in (True, False):
        vec = auto_reset(env, quarantine=quarantine)
        state, _ = vec.reset(jax.random.clone(state_key), 4)
        noise = vec.noise(jax.random.clone(noise_key), 12, 4)
        run = short_jit(lambda s, x, vec=vec: jax.lax.scan(lambda s, x: vec.step(x, s, jnp.zeros(4, jnp.int32)), s, x))
        found.append(run(state, noise)[1])
    assert not found[0].quarantined.any()
    for x, y in zip(jax.tree.leaves(found[0][:5]), jax.tree.leaves(found[1][:5]), strict=True):
        np.testing.assert_array_equal(x, y)


@cache
def algorithm(kind="observation", **changes):
    env = breaking(kind)
    return pp.make_ppo(env, plain(env), Config(**(vars(CONFIG) | changes)))


@cache
def prepared():
    """(state after a rollout, the rollout, its batch, values, next values)."""
    parts = algorithm().components

    @short_jit
    def run(key):
        state = algorithm().components.plan.place(ppo.init(parts, key, H))
        after, rollout = ppo.collect_rollout(parts, state, state.key)
        batch = ppo.compute_targets(parts, state.params, after, rollout, H)
        return state.params, rollout, batch, ppo.state_values(parts, state.params, after, rollout)

    return run(jax.random.key(0))


def test_the_trace_ends_at_the_state_before_a_quarantined_step():
    """The advantage of the step before is its TD residual with V(s_t), that of the step itself is 0."""
    _, rollout, batch, (values, _) = prepared()
    t, n = (index[1:] for index in np.nonzero(np.asarray(rollout.quarantined)))
    assert len(t) > 5
    keep = t > 0
    t, n = t[keep], n[keep]
    advantage = np.asarray(batch.advantage).reshape(rollout.reward.shape)
    np.testing.assert_allclose(advantage[t, n], 0.0, atol=1e-7)
    residual = 1.0 + 0.9 * np.asarray(values)[t, n] - np.asarray(values)[t - 1, n]
    np.testing.assert_allclose(advantage[t - 1, n], residual, atol=1e-6)


def test_the_loss_and_its_gradient_do_not_see_quarantined_samples():
    """Bitwise: other actions, targets, old values and distributions at those samples change nothing."""
    params, _, batch, _ = prepared()
    parts = algorithm().components
    h = H._replace(ent_coef=0.1, vf_clip_eps=0.2)
    gradient = short_jit(jax.value_and_grad(partial(ppo.loss, parts, h), has_aux=True))
    moved = jax.tree.map(lambda x: x + 0.1, params)
    here = jnp.asarray(batch.quarantined)

    def spoil(x):
        return jnp.where(here.reshape(here.shape + (1,) * (x.ndim - 2)), x + 1, x) if x.dtype != bool else x

    fields = ("obs", "target", "value", "log_prob", "distribution")
    other = batch._replace(**{name: jax.tree.map(spoil, getattr(batch, name)) for name in fields})
    plain_batch = batch._replace(quarantined=())
    (loss, stats), grads = gradient(moved, batch)
    for x, y in zip(jax.tree.leaves(((loss, stats), grads)), jax.tree.leaves(gradient(moved, other)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.abs(float(gradient(moved, plain_batch)[0][0]) - float(loss)) > 1e-4  # they would be seen


@pytest.mark.parametrize("kind", slow_except(["observation", "reward"], "reward"))
def test_a_run_goes_on_and_counts_what_it_left_out(kind):
    """No fault, parameters finite, and the statistics know whole episodes only: return and length LIMIT."""
    state, metrics = pp.train(algorithm(kind, normalize_observations=True, scale_rewards=True), 0, H)
    assert (metrics.quarantined > 3).all()
    assert metrics.nonfinite_observations.sum() == metrics.nonfinite_rewards.sum() == 0
    for name in ("return", "length"):
        for extent in ("min", "max", "mean"):
            np.testing.assert_array_equal(getattr(metrics, f"episode_{name}_{extent}"), LIMIT)
    lasting = (state.params, state.opt_state, state.obs_moments, state.reward_scaler, state.episodes)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(lasting))
    assert np.isfinite(metrics.total_loss).all()


def test_by_default_the_run_ends():
    with pytest.raises(pp.RunError, match="update 1: the environment Breaking-v0 returned a NaN or infinite obs"):
        pp.train(algorithm(on_nonfinite="halt"), 0, H, num_updates=1)


def test_a_batch_of_ones_own_has_to_do_it_itself():
    team = breaking("observation", agents=(2,))
    plain_team, watched = fold_agents(team, 2), fold_agents(team, 2, quarantine=True)
    with pytest.raises(ConfigError, match=r"config.on_nonfinite = \"quarantine\": .*fold_agents"):
        pp.make_ppo(plain_team, plain(plain_team), CONFIG)
    algo = pp.make_ppo(watched, plain(watched), CONFIG)
    state = algo.init(jax.random.key(0), H)
    _, rollout = short_jit(partial(ppo.collect_rollout, algo.components))(state, state.key)
    flags = np.asarray(rollout.quarantined).reshape(16, 3, 2)
    assert flags.any()
    np.testing.assert_array_equal(flags[..., 0], flags[..., 1])  # a team is reset as a whole
    assert np.isfinite(rollout.obs).all()
