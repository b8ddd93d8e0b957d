"""Drawings of small environments, uint8 [H, W, 3]: classic control as lines and circles, and grids of channels."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]

WIDTH = 400  # pixels
SMOOTHING = 2  # pixels drawn for each pixel of the image, in both directions
DARK, GRAY, BLUE, ORANGE = (38, 50, 56), (176, 190, 197), (25, 118, 210), (239, 108, 0)


class Canvas:
    """A white image with world coordinates: x to the right, y upward.

    Args:
        left, right, bottom, top: the world's rectangle; its width is that of the image.
    """

    def __init__(self, left: float, right: float, bottom: float, top: float):
        from PIL import Image, ImageDraw

        self._left, self._top = left, top
        self._scale = WIDTH * SMOOTHING / (right - left)
        self._image = Image.new("RGB", (WIDTH * SMOOTHING, round((top - bottom) * self._scale)), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], color: tuple[int, int, int], width: float) -> None:
        """Draw connected lines with round ends; `width` in the units of the world."""
        pixels = [self._pixel(point) for point in points]
        self._draw.line(pixels, color, max(1, round(width * self._scale)), "curve")
        for point in points:
            self.circle(point, width / 2, color)

    def circle(self, center: Point, radius: float, color: tuple[int, int, int]) -> None:
        """Draw a disc."""
        (x, y), r = self._pixel(center), radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), color)

    def box(self, center: Point, width: float, height: float, color: tuple[int, int, int]) -> None:
        """Draw a filled rectangle."""
        x, y = center
        corners = (x - width / 2, y + height / 2), (x + width / 2, y - height / 2)
        self._draw.rectangle([self._pixel(corner) for corner in corners], color)

    def image(self) -> np.ndarray:
        """Return the image, uint8 [H, W, 3]."""
        return np.asarray(self._image.reduce(SMOOTHING))

    def _pixel(self, point: Point) -> Point:
        return (point[0] - self._left) * self._scale, (self._top - point[1]) * self._scale


def cart_pole(x: float, theta: float) -> np.ndarray:
    """Draw a cart at x with a pole of length 1, whose angle is 0 if it is upright and grows clockwise."""
    canvas = Canvas(-2.8, 2.8, -0.5, 1.6)
    canvas.line([(-2.4, -0.12), (2.4, -0.12)], GRAY, 0.03)
    canvas.box((x, 0.0), 0.5, 0.24, DARK)
    canvas.line([(x, 0.0), (x + np.sin(theta), np.cos(theta))], ORANGE, 0.09)
    canvas.circle((x, 0.0), 0.05, BLUE)
    return canvas.image()


def pendulum(theta: float) -> np.ndarray:
    """Draw a pendulum of length 1, whose angle is 0 if it is upright and grows counterclockwise."""
    canvas = Canvas(-1.3, 1.3, -1.3, 1.3)
    canvas.line([(0.0, 0.0), (-np.sin(theta), np.cos(theta))], ORANGE, 0.12)
    canvas.circle((0.0, 0.0), 0.05, DARK)
    return canvas.image()


def acrobot(theta1: float, theta2: float) -> np.ndarray:
    """Draw two links of length 1, of which the first hangs at angle 0; the goal is to reach the line."""
    canvas = Canvas(-2.2, 2.2, -2.2, 2.2)
    canvas.line([(-2.2, 1.0), (2.2, 1.0)], GRAY, 0.03)
    elbow = (np.sin(theta1), -np.cos(theta1))
    tip = (elbow[0] + np.sin(theta1 + theta2), elbow[1] - np.cos(theta1 + theta2))
    canvas.line([(0.0, 0.0), elbow, tip], BLUE, 0.12)
    canvas.circle((0.0, 0.0), 0.07, DARK)
    canvas.circle(elbow, 0.07, ORANGE)
    return canvas.image()


def mountain_car(position: float, goal: float) -> np.ndarray:
    """Draw a car on the hill of height sin(3x)."""

    def height(x: float) -> float:
        return 0.45 * float(np.sin(3 * x)) + 0.55

    canvas = Canvas(-1.2, 0.6, -0.05, 1.3)
    canvas.line([(x, height(x)) for x in np.linspace(-1.2, 0.6, 100).tolist()], DARK, 0.01)
    flag = height(goal)
    canvas.line([(goal, flag), (goal, flag + 0.15)], DARK, 0.008)
    canvas.box((goal + 0.04, flag + 0.13), 0.08, 0.05, ORANGE)
    canvas.circle((position, height(position) + 0.03), 0.03, BLUE)
    return canvas.image()


def grid(channels: np.ndarray) -> np.ndarray:
    """Draw a grid in which each channel has a color; where several are set, the last one is seen.

    Args:
        channels: [H, W, C], 0 or 1.

    Returns:
        Image uint8 [H, W, 3], one pixel for each field.
    """
    from colorsys import hsv_to_rgb

    count = channels.shape[-1]
    colors = [(0.0, 0.0, 0.0), *(hsv_to_rgb(i / count, 0.65, 1.0) for i in range(count))]
    index = (np.asarray(channels) != 0) * np.arange(1, count + 1)
    return (255 * np.asarray(colors))[index.max(-1)].round().astype(np.uint8)
