"""The trial of the functions of a user on a short rollout: a NaN is found before a run, and only a NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiles import count_compiles
from jax.experimental import io_callback
from plain_net import plain
from probes import chain, endless
from readable import readable

import purejaxppo as pp
from purejaxppo import Config, trial
from purejaxppo.envs.auto_reset import auto_reset
from purejaxppo.hooks import IntrinsicReward
from purejaxppo.training.loop import state_shapes

CHAIN = chain(limit=5)
TINY = Config(num_envs=3, num_steps=8, num_epochs=1, num_minibatches=1, total_timesteps=24 * 4)


def bonus_of(reward=0.0, state=0.0, metric=0.0):
    """An intrinsic reward whose results are constants."""

    def apply(before, rollout, h):
        return before + state, jnp.full_like(rollout.reward, reward), {"metric": jnp.float32(metric)}

    return IntrinsicReward(lambda key, obs: jnp.float32(0.0), apply)


def root_of_zero(params, batch, h):
    """A loss of 0 whose gradient is 0 · ∞."""
    return jnp.sqrt(0.0 * jax.tree.leaves(params)[0].sum())


@pytest.mark.parametrize(
    ("hooks", "hook"),
    [
        ({"objective": lambda r, a, kl, h: jnp.sqrt(jnp.square(r - 1.0))}, r"objective \(its derivative\)"),
        ({"auxiliary_loss": lambda p, b, h: jnp.log(-jnp.square(b.value).sum())}, "auxiliary_loss"),
        ({"auxiliary_loss": root_of_zero}, r"auxiliary_loss \(its gradient\)"),
        ({"intrinsic": bonus_of(reward=np.inf)}, r"intrinsic \(its reward\)"),
        ({"intrinsic": bonus_of(state=np.nan)}, r"intrinsic \(its state\)"),
        ({"intrinsic": bonus_of(metric=np.nan)}, r"intrinsic \(its metrics\)"),
        ({"metrics_fn": lambda s, r, b, h: {"x": jnp.log(-1.0 - jnp.square(r.reward).sum())}}, "metrics_fn"),
        ({"optimizer": lambda h: optax.scale(jnp.sqrt(-h.learning_rate))}, "optimizer"),
    ],
    ids=readable,
)
def test_a_hook_that_returns_nan_is_named_before_a_run(hooks, hook):
    """Nothing but the evaluation of the hook is compiled."""
    with count_compiles() as compiles, pytest.raises(ValueError, match=f"^{hook}: .*finite"):
        pp.make_ppo(CHAIN, plain(CHAIN), TINY, **hooks)
    assert not {"update", "init"} & compiles.keys()


def mean_over_ends(state, rollout, batch, h):
    """NaN in a rollout in which no episode ends."""
    return {"x": rollout.terminated.sum(dtype=jnp.float32) * 0.0 / rollout.terminated.sum(dtype=jnp.float32)}


def infinite(state, rollout, batch, h):
    """-∞ in both trials, as the maximum over no episode is."""
    return {"x": jnp.max(rollout.reward, initial=-jnp.inf, where=rollout.truncated)}


@pytest.mark.parametrize(
    ("hooks", "sound"),
    [
        ({"metrics_fn": mean_over_ends}, [False, True]),
        ({"metrics_fn": infinite}, [True, True]),
        ({"auxiliary_loss": lambda p, b, h: 0.0 * h.target_kl * b.value.mean()}, [False, True]),  # of an infinite limit
        ({"intrinsic": bonus_of(state=np.inf)}, [True, True]),
    ],
    ids=["mean over episodes", "maximum over none", "default limit", "infinite state"],
)
def test_a_hook_is_not_blamed_for_a_nan_that_its_user_avoids(hooks, sound, monkeypatch):
    """It is tried twice, and a result that is acceptable in one of the trials is accepted."""
    found, real = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: found.append(real(x)) or found[-1])
    pp.make_ppo(endless(), plain(endless()), TINY, **hooks)
    assert [all(flags.values()) for flags in found] == sound


def test_a_hook_that_fits_only_the_sizes_of_the_config_is_accepted():
    """Its trial fails while it is traced, so that nothing is evaluated."""
    with count_compiles() as compiles:
        algo = pp.make_ppo(
            endless(), plain(endless()), TINY, auxiliary_loss=lambda p, b, h: (b.value * jnp.ones((1, 24))).mean()
        )
    assert "_trial" not in compiles
    assert algo.components.has_auxiliary_loss


def test_a_host_environment_is_not_played_for_hooks():
    """Its steps have effects on the host."""
    vec, calls = auto_reset(CHAIN), []

    def step(noise, state, action):
        io_callback(lambda: calls.append(1), None, ordered=True)
        return vec.step(noise, state, action)

    nan = {"metrics_fn": lambda s, r, b, h: {"x": jnp.float32(jnp.nan)}}
    pp.make_ppo(vec._replace(step=step), plain(CHAIN), TINY, **nan)
    assert calls == []
    with pytest.raises(ValueError, match="metrics_fn"):
        pp.make_ppo(vec, plain(CHAIN), TINY, **nan)


def test_while_tracing_hooks_are_not_evaluated(monkeypatch):
    for module in ("hooks", "optimizer", "trial"):
        monkeypatch.setattr(f"purejaxppo.{module}.sample_hyperparams", lambda: pytest.fail("a hook was evaluated"))

    def made(x):
        hooks = {
            "objective": lambda r, a, kl, h: r * a,
            "target_fn": lambda r, v, *_: (r - v, r),
            "optimizer": lambda h: optax.sgd(h.learning_rate),
            "intrinsic": bonus_of(reward=1.0),
        }
        pp.make_ppo(CHAIN, plain(CHAIN), TINY, **hooks)
        return x

    assert jax.jit(made)(jnp.float32(1.0)) == 1.0


@pytest.mark.parametrize(("group", "num_envs"), [(1, 4), (3, 6), (5, 5)])
def test_hooks_are_tried_on_whole_groups_of_columns(group, num_envs):
    """The trial has the least multiple of a group that is at least four columns."""
    env = auto_reset(CHAIN)._replace(group_size=group)
    config = Config(num_envs=60, num_steps=8, num_epochs=2, num_minibatches=2, total_timesteps=480)
    algo = pp.make_ppo(env, plain(env), config)
    small = trial._with_trial_sizes(algo)
    assert (small.config.num_envs, small.config.num_steps) == (num_envs, trial.TRIAL_STEPS)
    params = small.network.init(jax.random.key(0))
    expected = state_shapes(algo).params
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
