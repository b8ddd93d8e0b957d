"""Population-based training on the device: runs copy better ones, hyperparameters included, and change them.

Jaderberg et al. (2017), "Population based training of neural networks", arXiv:1711.09846.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._util.aliases import KeyLike, PyTree
from purejaxppo.config.schema import Hyperparams
from purejaxppo.metrics import Metrics
from purejaxppo.training.arguments import as_count, as_key, as_traced, check_algorithm
from purejaxppo.training.loop import call_update
from purejaxppo.types import Algorithm, TrainState

FACTORS = (0.8, 1.25)  # a copied hyperparameter is multiplied by one of these


class Population(NamedTuple):
    """The result of population-based training with R runs and K rounds."""

    states: TrainState  # leaves [R, ...] at the end
    hyperparams: Hyperparams  # [R] at the end
    scores: Array  # [K, R] mean return of the training episodes of each round; -inf if a run failed or none finished
    history: Hyperparams  # [K, R] in each round
    parents: Array  # [K, R] int32, the run that each run goes on from after a round; itself, unless it copied another


def train_population(
    algo: Algorithm,
    key: KeyLike,
    hyperparams: Hyperparams,
    bounds: Mapping[str, tuple[float, float]],
    num_rounds: int,
    updates_per_round: int,
    share: float = 0.25,
) -> Population:
    """Train a population as one XLA program: after each round the worst runs copy the best ones and explore.

    After a round, each run of the worst share goes on from the whole TrainState of a random run of the best share, and
    its searched hyperparameters are those of that run, each multiplied by 0.8 or 1.25 within its bounds. It keeps
    drawing random numbers for itself. Nothing is copied after the last round.

    The learning rate should not be annealed over the run (`lr_anneal=0`), because its schedule is searched.

    Args:
        algo: of `make_ppo`.
        key: a key, typed or raw, or an integer seed.
        hyperparams: each field a scalar or an array [R]; at least one is an array.
        bounds: the smallest and the largest value of each searched hyperparameter, by name.
        num_rounds: K.
        updates_per_round: updates of every run between two comparisons.
        share: of the runs that copy, and that are copied, above 0 and at most 0.5.

    Raises:
        TypeError, ValueError: an argument of another kind; the message says what to pass.
    """
    check_algorithm(algo, "train_population")
    h = as_traced(hyperparams)
    sizes = {jnp.shape(x) for x in h if jnp.shape(x)}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise ValueError(f"hyperparams needs arrays of one length R, the size of the population, not {sorted(sizes)}")
    ((size,),) = sizes
    unknown = sorted(set(bounds) - set(Hyperparams._fields))
    if unknown or not bounds:
        raise ValueError(f"bounds names the searched hyperparameters; {unknown or 'nothing'} is none")
    for name, (low, high) in bounds.items():
        if not 0 < low < high:
            raise ValueError(f"bounds of {name} = ({low}, {high}): must be 0 < low < high")
    count = int(share * size)
    if not 0 < share <= 0.5 or not count:
        raise ValueError(f"share = {share} of {size} runs: must be at most 0.5, and at least one run")
    every = Hyperparams(*(jnp.broadcast_to(x, (size,)) for x in h))
    searched = tuple((name, float(low), float(high)) for name, (low, high) in bounds.items())
    rounds = (as_count(num_rounds, "num_rounds"), as_count(updates_per_round, "updates_per_round"))
    return _train(algo.init, algo.update, searched, rounds, count, as_key(key, "train_population"), every)


@partial(jax.jit, static_argnames=("init", "update", "searched", "rounds", "count"))
def _train(
    init: Callable[..., PyTree],
    update: Callable[..., PyTree],
    searched: tuple[tuple[str, float, float], ...],
    rounds: tuple[int, int],
    count: int,
    key: Array,
    h: Hyperparams,
) -> Population:
    size = h.learning_rate.shape[0]  # type: ignore[union-attr]
    init_key, copy_key = jax.random.split(key)
    states = jax.vmap(init)(jax.random.split(init_key, size), h)

    def train(state: TrainState, h: Hyperparams) -> tuple[TrainState, Array]:
        state, metrics = jax.lax.scan(lambda s, _: call_update(update, s, h), state, length=rounds[1])
        return state, score_of(metrics)

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, tuple]:
        states, h = carry
        key, is_last = inputs
        states, scores = jax.vmap(train)(states, h)
        parents = jnp.where(is_last, jnp.arange(size), choose_parents(jax.random.fold_in(key, 0), scores, count))
        copied = parents != jnp.arange(size)
        changed = explore(jax.random.fold_in(key, 1), h, parents, copied, searched)
        return (copy_runs(states, parents), changed), (scores, h, parents)

    inputs = (jax.random.split(copy_key, rounds[0]), jnp.arange(rounds[0]) == rounds[0] - 1)
    (states, h), (scores, history, parents) = jax.lax.scan(step, (states, h), inputs)
    return Population(states, h, scores, history, parents)


def copy_runs(states: TrainState, parents: Array) -> TrainState:
    """Return states [R, ...] in which each run has the state of its parent, int32 [R], and the key of the run itself.

    A copy with the key of its parent would repeat what its parent does.
    """
    return jax.tree.map(lambda x: x[parents], states)._replace(key=states.key)


def score_of(metrics: Metrics) -> Array:
    """Return the mean return of all episodes of some updates, leaves [U] -> []; -inf after a fault or without any."""
    episodes = metrics.num_episodes
    total = jnp.sum(jnp.where(episodes > 0, metrics.episode_return_mean * episodes, 0.0))
    healthy = jnp.isfinite(metrics.total_loss).all() & (metrics.nonfinite_parameters == 0).all() & jnp.isfinite(total)
    mean = total / jnp.maximum(episodes.sum(), 1.0)
    return jnp.where(healthy & (episodes.sum() > 0), mean, -jnp.inf)


def choose_parents(key: Array, scores: Array, count: int) -> Array:
    """Return the run that each run goes on from: a random one of the `count` best for the `count` worst, else itself.

    A failed run, whose score is -inf, is copied only if all have failed.

    Args:
        key: of the choice.
        scores: [R].
        count: static.
    """
    order = jnp.argsort(scores).astype(jnp.int32)
    best = jnp.where(scores[order[-count:]] == -jnp.inf, order[-1], order[-count:])
    chosen = best[jax.random.randint(key, (count,), 0, count)]
    return jnp.arange(scores.shape[0], dtype=jnp.int32).at[order[:count]].set(chosen)


def explore(
    key: Array, h: Hyperparams, parents: Array, copied: Array, searched: tuple[tuple[str, float, float], ...]
) -> Hyperparams:
    """Return the hyperparameters [R] of the next round: copied ones are multiplied by one of FACTORS within bounds."""
    values = {}
    for i, (name, low, high) in enumerate(searched):
        own = jnp.asarray(getattr(h, name))
        wider = jax.random.bernoulli(jax.random.fold_in(key, i), shape=own.shape)
        changed = jnp.clip(own[parents] * jnp.where(wider, FACTORS[1], FACTORS[0]), low, high)
        values[name] = jnp.where(copied, changed, own)
    return h._replace(**values)
