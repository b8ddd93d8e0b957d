"""The suite's states are found inside of wrappers, and images become a GIF."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from purejaxppo.envs import registry
from purejaxppo.envs.errors import SUITES, EnvironmentUnavailable
from purejaxppo.envs.rendering import image_renderer, states_of


class Place(NamedTuple):
    x: jax.Array
    inside: tuple


class Other(NamedTuple):
    place: Place
    time: jax.Array


def test_a_state_is_found_by_its_type_and_taken_apart_over_time():
    states = {"a": jnp.zeros(3), "b": Other(Place(jnp.arange(3), (jnp.ones((3, 2)),)), jnp.zeros(3))}
    found = states_of(states, Place)
    assert [int(place.x) for place in found] == [0, 1, 2]
    assert all(isinstance(place, Place) and place.inside[0].shape == (2,) for place in found)
    assert all(isinstance(x, np.generic | np.ndarray) for x in jax.tree.leaves(found))
    with pytest.raises(ValueError, match="contains no Other"):
        states_of(Place(jnp.zeros(3), ()), Other)


def test_images_become_frames_of_a_gif(tmp_path):
    """Small images are magnified by a whole number; colors stay."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    path = tmp_path / "episode.gif"
    image_renderer(int, lambda i: np.full((10, 20, 3), colors[i]), 80).save(range(3), path)
    with Image.open(path) as image:
        assert (image.n_frames, image.size) == (3, (320, 160))
        for i, color in enumerate(colors):
            image.seek(i)
            assert image.info["duration"] == 80
            np.testing.assert_allclose(np.asarray(image.convert("RGB"))[5, 5], color, atol=8)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "Freeway-MinAtar"])
def test_gymnax_is_drawn(name, tmp_path):
    """The renderer knows the type of the state."""
    state, _ = jax.eval_shape(registry.make(f"gymnax/{name}").reset, jax.random.key(0))
    drawn = registry.renderer(f"gymnax/{name}")
    states = states_of(jax.tree.map(lambda x: jnp.zeros((2, *x.shape), x.dtype), state), drawn.state_type)
    assert len(states) == 2
    drawn.save(states[:1], tmp_path / "one.gif")
    with Image.open(tmp_path / "one.gif") as image:
        assert len(image.convert("RGB").getcolors(10_000)) > 1


def test_an_environment_without_a_renderer_says_so():
    for name in ("gymnax/Catch-bsuite", "examples/Nim-v1"):
        with pytest.raises(EnvironmentUnavailable, match=f"{name} has no renderer"):
            registry.renderer(name)


def test_suites_with_a_renderer_are_those_of_the_message():
    with pytest.raises(EnvironmentUnavailable) as caught:
        registry.renderer("examples/King-v1")
    listed = str(caught.value).partition("one: ")[2].rstrip(")").split(", ")
    assert set(listed) == set(SUITES) - {"playground", "jaxmarl", "gymnasium"}
