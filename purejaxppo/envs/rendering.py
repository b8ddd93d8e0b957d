"""Pictures of an episode: what an adapter gives to draw the states of its suite, and how they become one file.

The adapter of a suite that can be drawn has a function `renderer(id, **env_params)`, which makes no environment and
returns a Renderer, or None for an id without pictures. Wrappers and clocks put the suite's state into larger ones,
where `states_of` finds it by its type; so a wrapper knows nothing of pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from purejaxppo._util.aliases import EnvState, PyTree, SuiteObject
from purejaxppo.envs.packages import suite_code

COLORS = 64  # of a GIF; its pictures are drawings of a few colors
SMALLEST = 320  # pixels of the longer side; smaller images are magnified by a whole number


class Renderer(NamedTuple):
    """How states of a suite become one file."""

    state_type: type  # the suite's state, which is somewhere in the state of the Env
    save: Callable[[Sequence[SuiteObject], Path], None]  # (states [T], file) writes the episode
    suffix: str = ".gif"  # of the file


def image_renderer(state_type: type, draw: Callable[[SuiteObject], np.ndarray], milliseconds: int = 50) -> Renderer:
    """Return the renderer of states that are drawn one by one.

    Args:
        state_type: type of the suite's state.
        draw: (state) -> image [H, W, 3] of numbers in 0 to 255.
        milliseconds: from one image to the next.
    """

    def save(states: Sequence[SuiteObject], path: Path) -> None:
        save_gif((draw(state) for state in states), path, milliseconds)

    return Renderer(state_type, save)


def states_of(env_states: EnvState, state_type: type) -> list[SuiteObject]:
    """Return the suite's states in the recorded states of an environment.

    Args:
        env_states: states of the Env, leaves [T, ...].
        state_type: type of the suite's state; the outermost one is meant.

    Returns:
        T states with NumPy arrays.

    Raises:
        ValueError: the states contain none of this type.
    """

    def is_state(x: PyTree) -> bool:
        return isinstance(x, state_type)

    found = [x for x in jax.tree.leaves(env_states, is_leaf=is_state) if is_state(x)]
    if not found:
        raise ValueError(f"the state of the environment contains no {state_type.__name__}")
    leaves, structure = jax.tree.flatten(jax.device_get(found[0]))
    return [jax.tree.unflatten(structure, [x[t] for x in leaves]) for t in range(len(leaves[0]))]


def save_gif(images: Iterator[np.ndarray], path: Path, milliseconds: int) -> None:
    """Write images [H, W, 3] as an animation that repeats."""
    from PIL import Image

    with suite_code():
        pictures = [Image.fromarray(_magnify(np.asarray(image).astype(np.uint8))) for image in images]
    first, *rest = [picture.quantize(COLORS, Image.Quantize.FASTOCTREE) for picture in pictures]
    first.save(path, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)


def _magnify(image: np.ndarray) -> np.ndarray:
    factor = max(1, SMALLEST // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)
