"""The programs of a sweep: start, continue and evaluate a fixed number of runs side by side on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.stages import Compiled

from purejaxppo._util.aliases import PyTree, Shapes
from purejaxppo.config.schema import Hyperparams, Run
from purejaxppo.metrics import Metrics
from purejaxppo.sweeps.spec import TRACED
from purejaxppo.training.evaluation import MAX_STEPS, evaluate
from purejaxppo.training.loop import run_updates
from purejaxppo.training.many_runs import map_runs
from purejaxppo.training.policy_file import Policy
from purejaxppo.training.results import EVALUATION_KEY
from purejaxppo.types import Algorithm, TrainState


class Engine(NamedTuple):
    """How the runs of one program are executed. Every call takes `width` runs, so that all calls share one program.

    A run's result depends on its seed, its hyperparameters and `lanes`, on nothing else: lanes do not see each other.
    Programs of two lanes or more give bitwise equal results on a CPU; one lane is the program of `train`, whose results
    differ by rounding.
    """

    algo: Algorithm
    lanes: int  # runs side by side on each device
    num_devices: int
    segment: int  # most updates of one call
    episodes: int = 32  # of the evaluation
    greedy: bool = True
    runs: int = 0  # of every call; 0: lanes * num_devices

    @property
    def width(self) -> int:
        """Return the number of runs of every call."""
        return self.runs or self.lanes * self.num_devices

    def start(self, seeds: Sequence[int], h: Hyperparams, env_params: PyTree = None) -> TrainState:
        """Return the states before the first update, leaves [R, ...].

        Args:
            seeds: of the runs.
            h: hyperparameters, [R] each.
            env_params: parameters of the environments, leaves [R, ...]; None for the default ones.
        """
        return _start(self.algo.init, self.num_devices, self.lanes, _seeds(seeds), h, env_params)

    def advance(self, states: TrainState, h: Hyperparams, num_updates: int) -> tuple[TrainState, Metrics]:
        """Return the states after some updates, and metrics as NumPy arrays [R, num_updates]."""
        static = (self.algo.update, self.segment, self.num_devices, self.lanes)
        states, metrics = _advance(*static, states, h, jnp.int32(num_updates))
        return states, jax.tree.map(lambda x: np.asarray(x)[:, :num_updates], jax.device_get(metrics))

    def play(self, states: TrainState | Policy, seeds: Sequence[int], env_params: PyTree = None) -> np.ndarray:
        """Return the returns of the episodes of the evaluation, [R, E].

        The key is that of `purejaxppo train`, so that a run evaluated alone meets the same environments.

        Args:
            states: of the runs, leaves [R, ...].
            seeds: of the runs.
            env_params: parameters of the environments, leaves [R, ...]; None for the default ones.
        """
        policies = Policy(states.params, states.obs_moments)
        static = (_Play(self.algo, self.episodes, self.greedy), self.num_devices, self.lanes)
        return np.asarray(_play(*static, policies, _seeds(seeds), env_params), np.float64)

    def compiled(self) -> Compiled:
        """Return the compiled program of `advance`, for its memory analysis."""
        states, h = self.shapes()
        static = (self.algo.update, self.segment, self.num_devices, self.lanes)
        return _advance.lower(*static, states, h, jax.ShapeDtypeStruct((), jnp.int32)).compile()

    def shapes(self) -> tuple[Shapes, Shapes]:
        """Return the shapes of the states and the hyperparameters of a call."""
        h: Shapes = jax.eval_shape(lambda: Hyperparams(*[jnp.zeros(self.width)] * len(Hyperparams._fields)))
        seeds = jax.ShapeDtypeStruct((self.width,), jnp.uint32)
        return jax.eval_shape(partial(_start, self.algo.init, self.num_devices, self.lanes), seeds, h), h


def stack_env_params(algo: Algorithm, runs: Sequence[Run]) -> PyTree:
    """Return the traced parameters of the environments of several runs, leaves [R, ...]; None if there are none."""
    names = runs[0].env_params.get(TRACED, ())
    if not names:
        return None
    found = {}
    for name in names:
        leaf = algo.env.params[name]
        given = [np.asarray(run.env_params.get(name, leaf), leaf.dtype) for run in runs]
        found[name] = jnp.asarray(np.stack(given))
    return found


def stack_hyperparams(settings: Sequence[Hyperparams]) -> Hyperparams:
    """Return the hyperparameters of several runs, float32 [R] each."""
    return Hyperparams(*(jnp.asarray(np.asarray(x, np.float32)) for x in zip(*settings, strict=True)))


def _seeds(seeds: Sequence[int]) -> Array:
    return jnp.asarray(np.asarray(seeds, np.uint32))


@partial(jax.jit, static_argnames=("init", "num_devices", "lanes"))
def _start(
    init: Callable[..., PyTree],
    num_devices: int,
    lanes: int,
    seeds: Array,
    h: Hyperparams,
    env_params: PyTree = None,
) -> PyTree:
    def run(one: tuple, shared: tuple[()]) -> PyTree:
        seed, h, env_params = one
        given = () if env_params is None else (env_params,)
        return init(jax.random.key(seed), h, *given)

    return map_runs(run, num_devices, lanes, (seeds, h, env_params), ())


@partial(jax.jit, static_argnames=("update", "segment", "num_devices", "lanes"))
def _advance(
    update: Callable[..., PyTree],
    segment: int,
    num_devices: int,
    lanes: int,
    states: TrainState,
    h: Hyperparams,
    length: Array,
) -> PyTree:
    """Run `length` updates of each run and return their metrics in arrays [R, segment]."""

    def run(one: tuple, length: Array) -> PyTree:
        state, h = one
        return run_updates(update, segment, h, state, length)

    return map_runs(run, num_devices, lanes, (states, h), length)


class _Play(NamedTuple):
    """The static arguments of an evaluation; equal if they are the same objects."""

    algo: Algorithm
    episodes: int
    greedy: bool

    def __hash__(self) -> int:
        return hash((self.algo.init, self.episodes, self.greedy))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, _Play) and self.algo.init is other.algo.init
        return same and self[1:] == other[1:]  # type: ignore[index]


@partial(jax.jit, static_argnames=("static", "num_devices", "lanes"))
def _play(
    static: _Play, num_devices: int, lanes: int, policies: Policy, seeds: Array, env_params: PyTree = None
) -> Array:
    def run(one: tuple, shared: tuple[()]) -> Array:
        policy, seed, env_params = one
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION_KEY)
        settings = (static.episodes, static.greedy, MAX_STEPS)
        return evaluate(static.algo, policy, key, *settings, env_params=env_params).returns

    return map_runs(run, num_devices, lanes, (policies, seeds, env_params), ())
