"""What a scene with known truth is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]


@dataclass(frozen=True)
class LargeObject:
    """Extended light that is no sky: its ellipse (half-light radius along the major axis) and its own light."""

    name: str
    y: float
    x: float
    radius: float
    axis_ratio: float
    angle: float
    light: Image = field(repr=False)

    def radii(self) -> Image:
        """Elliptical radius of each pixel, in half-light radii."""
        rows, columns = self.light.shape
        y, x = np.ogrid[:rows, :columns][0] - self.y, np.ogrid[:rows, :columns][1] - self.x
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.hypot(c * x + s * y, (c * y - s * x) / self.axis_ratio) / self.radius


@dataclass(frozen=True)
class Scene:
    """An image and its truth.

    `noise` is the standard deviation of a pixel of blank sky. `light` is all light that is not sky, without noise.
    `without` is the same image, noise included, without the large objects. `zero` is the brightness, in mag/arcsec²,
    of one unit a pixel. The sky of a real field is not known: None; such a scene has `without`.
    """

    image: Image
    sky: Image | None
    planes: dict[str, Image] = field(default_factory=dict)
    noise: float = 0.1
    light: Image | None = None
    objects: tuple[LargeObject, ...] = ()
    without: Image | None = None
    zero: float | None = None
