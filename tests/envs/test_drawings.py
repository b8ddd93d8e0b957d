"""Drawings put each part where the state says it is."""

import numpy as np
import pytest

from purejaxppo.envs import drawings
from purejaxppo.envs.drawings import BLUE, DARK, GRAY, ORANGE


def center(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return the mean position (x to the right, y upward, in pixels) of the pixels of a color."""
    rows, columns = np.nonzero((np.abs(image.astype(int) - color) < 10).all(-1))
    return np.array([columns.mean(), image.shape[0] - rows.mean()])


def test_a_cart_is_at_its_place_and_its_pole_leans_to_the_right_of_it():
    left, right = drawings.cart_pole(-1.0, 0.0), drawings.cart_pole(1.0, 0.0)
    scale = drawings.WIDTH / 5.6
    np.testing.assert_allclose(center(right, DARK) - center(left, DARK), [2.0 * scale, 0.0], atol=1.0)
    leaning = drawings.cart_pole(0.0, 0.2)
    tilt = center(leaning, ORANGE) - center(drawings.cart_pole(0.0, 0.0), ORANGE)
    assert tilt[0] > 2.0
    assert left.dtype == np.uint8


@pytest.mark.parametrize("theta", [0.0, 0.7, 2.0, -2.0])
def test_a_pendulum_points_to_its_angle(theta):
    """Its middle is half a length from the pivot, the center of the image."""
    image = drawings.pendulum(theta)
    scale = drawings.WIDTH / 2.6
    found = (center(image, ORANGE) - np.array([drawings.WIDTH, image.shape[0]]) / 2) / scale
    np.testing.assert_allclose(found, [-0.5 * np.sin(theta), 0.5 * np.cos(theta)], atol=0.05)


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.8, -1.9), (2.5, 1.0)])
def test_the_elbow_of_an_acrobot_is_at_the_end_of_the_first_link(angles):
    image = drawings.acrobot(*angles)
    scale = drawings.WIDTH / 4.4
    found = (center(image, ORANGE) - np.array([drawings.WIDTH, image.shape[0]]) / 2) / scale
    np.testing.assert_allclose(found, [np.sin(angles[0]), -np.cos(angles[0])], atol=0.03)
    assert np.isfinite(center(image, GRAY)).all()


def test_a_car_is_on_its_hill():
    low, high = (center(drawings.mountain_car(x, 0.5), BLUE) for x in (-np.pi / 6, 0.5))
    scale = drawings.WIDTH / 1.8
    np.testing.assert_allclose((high - low) / scale, [0.5 + np.pi / 6, 0.45 * (np.sin(1.5) + 1)], atol=0.02)


def test_each_channel_of_a_grid_has_a_color():
    channels = np.zeros((2, 3, 4), bool)
    for i in range(4):
        channels[i // 3, i % 3, i] = True
    image = drawings.grid(channels)
    assert image.shape == (2, 3, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 5
    assert not image[1, 1:].any()  # nothing is black
    channels[0, 0, 3] = True  # hides channel 0
    np.testing.assert_array_equal(drawings.grid(channels)[0, 0], image[1, 0])
