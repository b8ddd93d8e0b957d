"""`purejaxppo render`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from purejaxppo.cli.exit_codes import FINISHED
from purejaxppo.cli.options import Argument, Interval
from purejaxppo.cli.trained_policy import find_policy, open_policy, read_settings
from purejaxppo.config.errors import Problem, UsageError
from purejaxppo.devices.compile_cache import use_compile_cache

MAX_STEPS = 1000


@dataclass(frozen=True)
class Render:
    """Draw one episode of a trained policy, as a GIF next to the policy.

    RUN is a run folder or a policy file. Classic control, MinAtar, navix, xland, jumanji and craftax become a GIF,
    boards of pgx an animated SVG, and brax a page of HTML. Other environments have no renderer.
    """

    run: Annotated[Path, Argument("RUN")]  # folder that `purejaxppo train` made, or its policy.safetensors
    seed: Annotated[int, Interval("[0, 4294967295]")] = 0  # seed of the episode
    max_steps: Annotated[int, Interval("[1, 100000]")] = MAX_STEPS  # a longer episode is cut
    best: bool = False  # of a run folder, the best policy that `train --evaluate-every` found; otherwise the last one
    sampled: bool = False  # sample actions from the policy; otherwise take the most likely ones


def run_render(args: Render, problems: Sequence[Problem]) -> int:
    """Play one episode with the policy of a run and write its pictures."""
    file = find_policy(args.run, args.best, problems, "render")
    run, _, _ = read_settings(file)
    check_renderer(run.env, run.env_params)  # before anything is compiled
    use_compile_cache()
    run, algo, policy = open_policy(file)

    from purejaxppo.envs.registry import renderer
    from purejaxppo.training.rendering import EPISODE_FILE, render_episode

    drawn = renderer(run.env, **run.env_params)
    path = file.parent / f"{EPISODE_FILE}{drawn.suffix}"
    steps, total = render_episode(algo, policy, drawn, path, args.seed, args.max_steps, not args.sampled)
    print(f"{path}: an episode of {steps} steps, return {total:.5g}")
    return FINISHED


def check_renderer(env: str, env_params: Mapping[str, object]) -> None:
    """Check that an environment has a renderer.

    Raises:
        UsageError: it has none, or its suite is not installed.
    """
    from purejaxppo.envs.errors import EnvironmentProblem
    from purejaxppo.envs.registry import renderer

    try:
        renderer(env, **env_params)
    except EnvironmentProblem as error:
        raise UsageError(str(error)) from None
