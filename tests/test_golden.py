"""The golden update: one iteration of the library compared with the NumPy loops of the oracle, to 1e-5.

The oracle receives the rollout of the library as observations, actions, rewards and flags; they share nothing else.
"""

import ast
import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from slow import slow_except

from purejaxppo import ppo
from purejaxppo.assembly import make_ppo
from purejaxppo.config.schema import Config, Hyperparams
from purejaxppo.distributions import Categorical, DiagonalGaussian
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.spaces import Discrete, box
from purejaxppo.networks.protocol import Network

T, N, D, WIDTH, SIZE = 8, 4, 3, 5, 2
ORDER = np.random.default_rng(0).permutation(T * N)
CONFIG = Config(num_envs=N, num_steps=T, num_epochs=2, num_minibatches=2, total_timesteps=T * N)
H = Hyperparams(learning_rate=3e-3, lr_anneal=0.0, gamma=0.95, gae_lambda=0.9, ent_coef=0.02, max_grad_norm=0.5)


def environment(continuous):
    """A noisy walk of three numbers that terminates when the second is large and is truncated by a clock."""

    def reset(key):
        x = 0.5 * jax.random.normal(key, (D,))
        return (x, jnp.int32(0)), x

    def step(key, state, action):
        push = 0.5 * jnp.tanh(jnp.sum(action)) if continuous else action.astype(jnp.float32) - 0.5
        x = 0.9 * jnp.roll(state[0], 1) + 0.3 * push + 0.3 * jax.random.normal(key, (D,))
        done = (x[1] > 0.7, state[1] >= 2)
        return (x, state[1] + 1), TimeStep(x, x[0] - 0.1 * push, *done, x)

    actions = box(-10.0, 10.0, (SIZE,)) if continuous else Discrete(SIZE)
    return Env(reset, step, box(-10.0, 10.0, (D,)), actions)


def network(continuous):
    """Two tanh MLPs with the parameter names of the oracle."""

    def init(key):
        rng = np.random.default_rng(1)
        params = {}
        for name, out in (("actor", SIZE), ("critic", 1)):
            for i, (a, b) in enumerate([(D, WIDTH), (WIDTH, WIDTH), (WIDTH, out)]):
                params[f"{name}_w{i}"], params[f"{name}_b{i}"] = rng.normal(size=(a, b)) / a**0.5, rng.normal(size=b)
        if continuous:
            params["log_std"] = np.array([-0.5, 0.2])
        return {name: jnp.asarray(x, jnp.float32) for name, x in params.items()}

    def mlp(params, name, x):
        for i in range(3):
            x = x @ params[f"{name}_w{i}"] + params[f"{name}_b{i}"].reshape((1,) * (x.ndim - 1) + (-1,))
            x = jnp.tanh(x) if i < 2 else x
        return x

    def apply(params, carry, obs, reset):
        out, value = mlp(params, "actor", obs), mlp(params, "critic", obs)[..., 0]
        if not continuous:
            return carry, Categorical(out), value
        log_std = params["log_std"].reshape((1,) * (out.ndim - 1) + (-1,))
        return carry, DiagonalGaussian(out, jnp.broadcast_to(log_std, out.shape)), value

    return Network(init, apply)


@functools.cache
def iteration(objective, continuous, normalize):
    """Return the library's iteration: (key, h) -> first parameters, state and metrics after an update, rollout."""
    config = dataclasses.replace(CONFIG, objective=objective, normalize_advantages=normalize)
    order = jnp.asarray(ORDER)
    algo = make_ppo(environment(continuous), network(continuous), config, shuffle=lambda key, size: order)

    def iterate(key, h):
        start = algo.init(key, h)
        again = start._replace(key=jax.random.wrap_key_data(jax.random.key_data(start.key)))
        rollout = ppo.collect_rollout(algo.components, again, jax.random.split(again.key, 3)[1])[1]
        return start.params, *algo.update(start, h), rollout

    return jax.jit(iterate)


def both(objective, continuous, normalize, h=H):
    """Return one iteration of the library (parameters before, state after, metrics) and the oracle's Golden of it."""
    h = jax.tree.map(jnp.float32, h)
    start, end, metrics, rows = iteration(objective, continuous, normalize)(jax.random.key(4), h)
    rollout = oracle.Rollout(*map(np.asarray, (rows.obs, rows.action, *rows[2:6])))
    assert min(rollout.terminated.sum(), rollout.truncated.sum()) >= 2
    names = set(oracle.Settings._fields) & set(h._fields)
    settings = oracle.Settings(objective, normalize, **{name: float(getattr(h, name)) for name in names})
    params = {name: np.asarray(x, np.float64) for name, x in start.items()}
    minibatches = [list(ORDER.reshape(2, -1))] * 2
    return start, end, metrics, oracle.golden_update(params, rollout, minibatches, settings)


@pytest.mark.parametrize(
    ("objective", "continuous", "normalize"),
    slow_except(
        [
            ("clip", False, True),
            ("kl", False, True),
            ("cpi", False, True),
            ("clip", True, True),
            ("kl", True, True),
            ("cpi", True, False),
        ],
        ("clip", False, True),
        ("kl", False, True),
        ("clip", True, True),
        ("cpi", True, False),
    ),
)
def test_golden_update(objective, continuous, normalize):
    start, end, metrics, golden = both(objective, continuous, normalize)
    assert set(end.params) == set(golden.params)
    for name, x in golden.params.items():
        np.testing.assert_allclose(end.params[name], x, atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(x - np.asarray(start[name])).max() > 1e-3, name  # the parameters have changed
    np.testing.assert_allclose(metrics.total_loss, np.mean(golden.losses), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.grad_norm, np.mean(golden.grad_norms), rtol=1e-4)
    assert max(golden.grad_norms) > H.max_grad_norm  # some samples are clipped


def test_golden_update_if_ratios_leave_the_clip_range():
    """With large steps the later minibatches contain both clipped and unclipped samples."""
    h = H._replace(learning_rate=0.03, clip_eps=0.05)
    _, end, metrics, golden = both("clip", False, True, h)
    assert 0.1 < float(metrics.clip_fraction) < 0.9
    for name, x in golden.params.items():
        np.testing.assert_allclose(end.params[name], x, atol=1e-5, rtol=0, err_msg=name)


CLIPS = {
    "asymmetric": {"clip_asymmetry": 3.0},
    "dual": {"dual_clip": 1.1},
    "value": {"vf_clip_eps": 0.05},
    "all of them": {"clip_asymmetry": 3.0, "dual_clip": 1.1, "vf_clip_eps": 0.05},
}


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("continuous", [False, True], ids=["discrete", "continuous"])
def test_golden_update_with_every_kind_of_clip(continuous, clips):
    """Upper bound, dual clip and value clip are those of the formulas, and each makes a difference."""
    h = H._replace(learning_rate=0.03, clip_eps=0.05)
    _, end, metrics, golden = both("clip", continuous, True, h._replace(**CLIPS[clips]))
    _, _, _, without = both("clip", continuous, True, h)
    for name, x in golden.params.items():
        np.testing.assert_allclose(end.params[name], x, atol=1e-5, rtol=0, err_msg=name)
    np.testing.assert_allclose(metrics.total_loss, np.mean(golden.losses), rtol=1e-5, atol=1e-6)
    assert max(np.abs(x - without.params[name]).max() for name, x in golden.params.items()) > 1e-3


def test_golden_update_if_the_two_directions_of_the_kl_differ():
    """Near the old policy KL(old ‖ new) and KL(new ‖ old) agree to third order; larger steps and β distinguish them."""
    _, end, metrics, golden = both("kl", False, True, H._replace(learning_rate=0.03, beta=5.0))
    assert metrics.kl > 1e-3
    for name, x in golden.params.items():
        np.testing.assert_allclose(end.params[name], x, atol=1e-5, rtol=0, err_msg=name)


def test_the_oracle_imports_nothing_but_numpy():
    """And the standard library: code that it shared with the library would not be checked."""
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy"}
