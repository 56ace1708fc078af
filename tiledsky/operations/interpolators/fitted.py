"""What interpolators share that fit the boxes, not fill and filter them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels.fit.weights import NOISE_HALO, box_noise
from tiledsky.kernels.fit.windows import Window
from tiledsky.kernels.statistics.counted import CountedValues
from tiledsky.operations.interpolators.base import Parameters
from tiledsky.operations.interpolators.zoom import Spline
from tiledsky.overlap import Patch


class Fitted(Spline[Parameters]):
    """A fit to the boxes that have values of their own, by weights that ask for the noise.

    Boxes whose values are of a larger one would count that many times, so they do not count.
    """

    working: ClassVar[tuple[str, ...]] = ("values", "scatter", "own")
    filled: ClassVar[tuple[str, ...]] = ("scatter",)
    box_halo: ClassVar[Pair] = (NOISE_HALO, NOISE_HALO)

    def box_parts(self, scatter: Patch, own: NDArray[np.bool_], region: Region) -> list[bytes]:
        """Noise of the boxes of a tile."""
        noise = box_noise(region, Window(scatter.data, scatter.region), Window(own, scatter.region))
        return [CountedValues.of(noise).to_bytes()]

    def merge_box_parts(self, parts: Iterator[Sequence[bytes]]) -> list[bytes]:
        """Typical noise of all boxes."""
        typical = CountedValues.merged(CountedValues.from_bytes(own[0]) for own in parts).median()
        return [np.array(typical, "<f8").tobytes()]
