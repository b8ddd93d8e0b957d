"""Adapter for XLand-MiniGrid (the package xminigrid): the ported MiniGrid tasks, and XLand with its rulesets.

* terminated: the last step has the discount 0: the goal is reached.
* truncated: the last step has the discount 1: `state.step_num == max_steps`.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from purejaxppo._util.aliases import EnvState, Observation, PRNGKey, SuiteObject
from purejaxppo._util.text import nearest
from purejaxppo.envs.conformance import conform
from purejaxppo.envs.errors import EnvironmentUnavailable
from purejaxppo.envs.facts import recorded_ids
from purejaxppo.envs.packages import choose_arguments, gap_of_clock, import_suite, quiet, raw_key, suite_code
from purejaxppo.envs.protocol import Env, TimeStep
from purejaxppo.envs.rendering import Renderer, image_renderer
from purejaxppo.envs.spaces import Discrete, box

# Fields of the suite's EnvParams that the id fixes: grids of other sizes have other ids.
FIXED = ("height", "width", "render_mode", "grid_type")


def ids() -> tuple[str, ...]:
    """Return every id of the suite."""
    return recorded_ids("xland")


def make(name: str, **env_params: Any) -> Env:
    """Make an environment of XLand-MiniGrid.

    Observations are grids of symbols, uint8 [V, V, 2]: tile and color of each field in view. Random first states are
    drawn at every reset.

    Args:
        name: id of the environment. One that starts with XLand has no task and needs `ruleset` or
            `benchmark`.
        env_params: `max_steps` and `view_size`; of XLand also `ruleset`, a RuleSet of xminigrid, or `benchmark`, the
            name of a benchmark that the suite downloads (or a Benchmark), from which each episode draws a ruleset.

    Raises:
        MissingSuite: xminigrid is not installed, or its version does not work.
        EnvironmentUnavailable: the benchmark cannot be downloaded.
        ValueError: an unknown parameter (the nearest are named), one of a wrong kind, or no task.
    """
    xminigrid = import_suite("xland")
    with suite_code(), jax.ensure_compile_time_eval():
        env, params = xminigrid.make(name)
        fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params) if f.name not in FIXED}
        rulesets = {"ruleset": None, "benchmark": None} if "ruleset" in fields else {}
        chosen = choose_arguments(name, {**fields, **rulesets}, env_params)
        if rulesets and not chosen.keys() & rulesets:
            raise ValueError(
                f'{name} has no task without a ruleset: give env_params benchmark = "trivial-21k" or another benchmark '
                "of xminigrid, or ruleset from Python"
            )
        benchmark = chosen.pop("benchmark", None)
        benchmark = _load(name, benchmark) if isinstance(benchmark, str) else benchmark
        return conform(_adapt(env, params.replace(**chosen), benchmark))


def renderer(name: str, **env_params: object) -> Renderer:
    """Return how states are drawn: the whole grid, with what the agent sees."""
    xminigrid = import_suite("xland")
    rendering = import_suite("xland", "xminigrid.rendering.rgb_render")
    view_size = env_params.get("view_size", xminigrid.make(name)[1].view_size)

    def draw(timestep: SuiteObject) -> np.ndarray:
        return rendering.render(np.asarray(timestep.state.grid), timestep.state.agent, view_size)

    return image_renderer(import_suite("xland", "xminigrid.types").TimeStep, draw, 200)


def _load(name: str, benchmark: str) -> SuiteObject:
    """Load a benchmark by its name, from the disk or from the network."""
    xminigrid = import_suite("xland")
    known = xminigrid.registered_benchmarks()
    if benchmark not in known:
        raise ValueError(
            f"{name}: unknown benchmark {benchmark!r} (nearest: {', '.join(nearest(benchmark, known, 3))})"
        )
    try:
        return xminigrid.load_benchmark(benchmark)
    except OSError as error:
        raise EnvironmentUnavailable(f"{name}: the benchmark {benchmark} could not be downloaded: {error}") from error


def _adapt(env: SuiteObject, params: SuiteObject, benchmark: SuiteObject) -> Env:
    """Return the Env of xminigrid's environment; the goal and the rules of an episode are in its state."""
    tiles = import_suite("xland", "xminigrid.core.constants")

    @quiet
    def reset(key: PRNGKey) -> tuple[EnvState, Observation]:
        if benchmark is None:
            timestep = env.reset(params, raw_key(key))
        else:
            key_ruleset, key = jax.random.split(key)
            task = params.replace(ruleset=benchmark.sample_ruleset(raw_key(key_ruleset)))
            timestep = env.reset(task, raw_key(key))
        return timestep, timestep.observation

    @quiet
    def step(key: PRNGKey, timestep: SuiteObject, action: jax.Array) -> tuple[EnvState, TimeStep]:
        timestep = env.step(params, timestep, action)
        last, dead = timestep.last(), timestep.discount == 0
        obs = timestep.observation
        return timestep, TimeStep(obs, timestep.reward, last & dead, last & ~dead, obs)

    shape = env.observation_shape(params)
    space = box(0, (tiles.NUM_TILES - 1, tiles.NUM_COLORS - 1), shape, np.uint8, codes=True)
    return Env(reset, step, space, Discrete(env.num_actions(params)), truncation_gap=gap_of_clock(params.max_steps))
