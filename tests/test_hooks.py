"""Functions handed to `make_ppo`: their arguments, where their results go, and errors."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiles import count_compiles
from plain_net import plain
from probes import chain, quick_jit
from readable import readable

import purejaxppo as pp
import purejaxppo.optimizer
import purejaxppo.ppo
from purejaxppo import Config, Hyperparams
from purejaxppo.hooks import IntrinsicReward
from purejaxppo.metrics import flat
from purejaxppo.training.loop import as_traced

CHAIN = chain(limit=5)
TINY = Config(num_envs=3, num_steps=8, num_epochs=1, num_minibatches=1, total_timesteps=24 * 4)
H = as_traced(Hyperparams(0.02, lr_anneal=0.0, max_grad_norm=jnp.inf))


HOOKS = ("objective", "target_fn", "shuffle", "optimizer", "auxiliary_loss", "intrinsic", "metrics_fn")
SHORT = {"h": "hyperparams", "num_sequences": "size", "intrinsic_key": "key", "intrinsic": "state"}  # names at calls


def constant(value):
    """An intrinsic reward of `value` per step; its state counts the rollouts."""

    def apply(state, rollout, h):
        reward = jnp.full_like(rollout.reward, value)
        return state + 1, reward, {"bonus": reward.mean()}

    return IntrinsicReward(lambda key, obs: jnp.int32(0), apply)


def updated(updates=1, config=TINY, **hooks):
    algo = pp.make_ppo(CHAIN, plain(CHAIN), config, **hooks)
    state = quick_jit(algo.init)(jax.random.key(0), H)
    update = quick_jit(algo.update)
    for _ in range(updates):
        state, metrics = update(state, H)
    return state, metrics


def signatures(text):
    """Return the argument names of every function that a text describes as `(...) -> ...`."""
    return [tuple(names.split(", ")) for names in re.findall(r"\((\w+(?:, \w+)*)\) ->", re.sub(r" \[.*?\]", "", text))]


def documented(text, pattern):
    """Return the signatures of every hook in the part of a text that begins with `pattern`."""
    starts = {name: text.index(pattern.format(name)) for name in HOOKS}
    ends = dict(zip(HOOKS, [*list(starts.values())[1:], None], strict=True))
    return {name: set(signatures(" ".join(text[starts[name] : ends[name]].split()))) for name in HOOKS}


def called():
    """Return the names of the arguments with which the page, and for the optimizer `optimizer.py`, call each hook."""
    files = [Path(inspect.getfile(module)).read_text() for module in (pp.ppo, pp.optimizer)]
    calls = [node for text in files for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    found = {name: [] for name in HOOKS}
    for call in calls:
        function = ast.unparse(call.func).removeprefix("ppo.").removesuffix(".apply").removesuffix(".init")
        function = "optimizer" if function == "make" else function
        if function in HOOKS and ast.unparse(call.func) not in ("optimizer.init", "ppo.optimizer.init"):
            names = tuple(ast.unparse(x).rpartition(".")[2] for x in call.args)
            found[function].append(tuple(SHORT.get(name, name) for name in names))
    return {name: set(rows) for name, rows in found.items()}


def test_the_documented_arguments_of_every_hook_are_those_of_its_calls():
    """In the docstring of make_ppo and in docs/recipes.md; the names say what each argument is."""
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text().partition("| I want |")[0]
    calls = called()
    assert all(calls.values())
    assert documented(pp.make_ppo.__doc__.partition("Raises:")[0], " {}: ") == calls
    assert documented(page, "| `{}` |") == calls
    names = list(inspect.signature(pp.make_ppo).parameters)
    assert names[names.index("objective") :] == list(HOOKS)


@cache
def default():
    return updated()


def test_an_auxiliary_loss_is_added_to_the_loss_and_sees_the_next_observation():
    """With loss c * sum(θ) every component of the gradient grows by c; the batch contains s' of every step."""
    seen = {}

    def auxiliary(params, batch, h):
        seen.update(obs=batch.obs.shape, next_obs=batch.next_obs.shape)
        return 0.5 * sum(x.sum() for x in jax.tree.leaves(params)) + 0.0 * batch.next_obs.sum()

    def sgd(h):
        return optax.sgd(h.learning_rate)

    (before, _), (after, _) = updated(optimizer=sgd), updated(optimizer=sgd, auxiliary_loss=auxiliary)
    for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_allclose(a - b, 0.02 * 0.5, atol=1e-6)
    assert seen["obs"] == seen["next_obs"]


def test_an_intrinsic_reward_enters_the_targets_and_not_the_returns():
    """A bonus of 1 per step raises the mean advantage; the reported returns are those of the environment."""
    (state, metrics), (_, without) = updated(2, intrinsic=constant(1.0)), updated(2)
    assert state.intrinsic == 2
    assert metrics.extra["bonus"] == 1.0
    assert metrics.num_episodes == without.num_episodes > 0
    assert metrics.episode_return_max <= 1.0 + 1e-6
    assert metrics.value_loss > without.value_loss + 0.5


def test_an_intrinsic_reward_of_zero_changes_nothing():
    params = updated(intrinsic=constant(0.0))[0].params
    jax.tree.map(np.testing.assert_array_equal, params, default()[0].params)


def test_metrics_of_the_user_are_reported_by_name():
    def metrics_fn(state, rollout, batch, h):
        return {"mean_action": rollout.action.astype(jnp.float32).mean(), "rate": h.learning_rate}

    _, metrics = updated(metrics_fn=metrics_fn)
    values = flat(metrics)
    assert 0.0 < values["mean_action"] < 1.0
    np.testing.assert_allclose(values["rate"], 0.02, rtol=1e-6)
    assert set(values) == set(flat(default()[1])) | {"mean_action", "rate"}


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"objective": lambda r, a, kl, h: (r * a).mean()}, r"objective: expected float32\[3, 1\], got float32\[\]"),
        ({"objective": lambda r, a, kl, h: jnp.log(a)}, "objective: expected finite"),
        ({"target_fn": lambda r, *_: r}, r"target_fn: expected \('float32\[3, 2\]', .* got float32\[3, 2\]"),
        ({"target_fn": lambda r, v, n, t, c, h, k: (r / 0, r)}, "target_fn: expected finite"),
        ({"shuffle": lambda key, size: jnp.arange(size - 1)}, r"shuffle: expected int32\[24\], got int32\[23\]"),
        ({"shuffle": lambda key, size: jnp.zeros(size, jnp.int32)}, "shuffle: expected a permutation of 0..23"),
        ({"auxiliary_loss": lambda p, b, h: b.value}, r"auxiliary_loss: expected float32\[\], got float32\[1, 24\]"),
        ({"intrinsic": IntrinsicReward(lambda k, o: (), lambda s, r, h: s)}, "intrinsic: apply must return"),
        (
            {"intrinsic": IntrinsicReward(lambda k, o: (), lambda s, r, h: (s, r.reward[0], {}))},
            r"intrinsic \(its reward\): expected float32\[8, 3\], got float32\[3\]",
        ),
        ({"metrics_fn": lambda s, r, b, h: {"x": r.reward}}, "metrics_fn: expected a dict of float32 scalars by name"),
        ({"metrics_fn": lambda s, r, b, h: 3}, "metrics_fn: expected a dict of float32 scalars by name"),
    ],
    ids=readable,
)
def test_a_hook_that_returns_something_else_is_named(hooks, message):
    with pytest.raises(ValueError, match=message):
        pp.make_ppo(CHAIN, plain(CHAIN), TINY, **hooks)


def test_an_objective_that_relies_on_a_limit_of_its_user_is_accepted():
    """The default limit is infinite and gives NaN; the second setting tried is finite."""
    with count_compiles() as compiles:
        pp.make_ppo(CHAIN, plain(CHAIN), TINY, objective=lambda r, a, kl, h: r * a - 0.0 * h.target_kl * kl)
    assert compiles["values"] == 1


def test_the_message_shows_the_value_that_is_not_finite():
    with pytest.raises(ValueError, match=r"target_fn: .* got \[\[nan|inf"):
        pp.make_ppo(CHAIN, plain(CHAIN), TINY, target_fn=lambda r, v, n, t, c, h, k: (r, r / 0))
