"""All phases of a fit on a mesh in memory, tile by tile: the order in which tasks do them too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiledsky.geometry import Pair, Region, TileGrid
from tiledsky.kernels.fit.averages import BLOCK, COUNTS, count_blocks
from tiledsky.kernels.fit.local_polynomial import COUNT_HALO, SCORE_HALO, FitModel, LocalFit, MeshFit
from tiledsky.kernels.fit.robust import ROUNDS, below, judge_boxes, judge_halo, robust_weights, scale_of
from tiledsky.kernels.fit.sums import BoxSums, ExactSums, FitNumbers, normal_sums, polynomials
from tiledsky.kernels.fit.weights import NOISE_HALO, box_noise, box_weights
from tiledsky.kernels.fit.windows import Window, blocks_of
from tiledsky.kernels.statistics.counted import CountedValues

#: Cells of a tile: a multiple of `tiledsky.kernels.fit.windows.ALIGNED`.
TILE = (256, 256)


def _tiles(shape: Pair, tile: Pair) -> list[Region]:
    grid = TileGrid(shape, tile)
    return [grid.region(index) for index in grid]


def _shape(cells: NDArray[Any]) -> Pair:
    return cells.shape[0], cells.shape[1]


def weights_of(
    n_good: NDArray[Any], rms: NDArray[Any], usable: NDArray[np.bool_], *, pixels: int, tile: Pair = TILE
) -> NDArray[np.float32]:
    """Weights of all boxes of a mesh, see `tiledsky.kernels.fit.weights.box_weights`."""
    tiles, halo = _tiles(_shape(rms), tile), (NOISE_HALO, NOISE_HALO)

    def windows(t: Region) -> tuple[Window, Window]:
        return Window.about(rms, t, halo), Window.about(usable, t, halo)

    typical = CountedValues.merged(CountedValues.of(box_noise(t, *windows(t))) for t in tiles).median()
    made = np.empty(rms.shape, np.float32)
    for t in tiles:
        made[t.slices] = box_weights(t, Window.about(n_good, t, (0, 0)), *windows(t), pixels=pixels, typical=typical)
    return made


def numbers_of(values: NDArray[Any], weight: NDArray[Any], *, tile: Pair = TILE) -> FitNumbers:
    """What fits have to know of all boxes; one at least has a weight."""
    tiles = _tiles(_shape(weight), tile)
    return BoxSums.merged(BoxSums.of(values[t.slices], weight[t.slices]) for t in tiles).numbers()


def robust_of(
    values: NDArray[Any], weight: NDArray[np.float32], *, box_size: Pair, bandwidth: float, tile: Pair = TILE
) -> NDArray[np.float32]:
    """Weights after all robust rounds, see `tiledsky.kernels.fit.robust`."""
    shape, halo = _shape(weight), judge_halo(box_size=box_size, bandwidth=bandwidth)
    numbers, tiles = numbers_of(values, weight, tile=tile), _tiles(shape, tile)
    before: NDArray[np.float32] | None = None
    scale = 0.0
    for _ in range(ROUNDS):
        judged = np.empty(shape, np.float32)
        for t in tiles:
            judged[t.slices] = judge_boxes(
                t,
                Window.about(values, t, halo),
                Window.about(weight, t, halo),
                None if before is None else Window.about(before, t, halo),
                scale,
                shape=shape,
                box_size=box_size,
                bandwidth=bandwidth,
                numbers=numbers,
            )
        scale = scale_of(CountedValues.merged(below(weight[t.slices], judged[t.slices]) for t in tiles))
        before = judged
    return robust_weights(weight, judged, scale)


def fit_of(
    values: NDArray[Any],
    weight: NDArray[Any],
    *,
    box_size: Pair,
    model: FitModel,
    fitted: NDArray[Any] | None = None,
    shared: float = 1.0,
    tile: Pair = TILE,
    dtype: DTypeLike = np.float64,
) -> LocalFit:
    """Fit a mesh, see `tiledsky.kernels.fit.local_polynomial.MeshFit`; `fitted` are the weights after robust rounds.

    The maps that it makes have the dtype.
    """
    shape, tiles = _shape(values), _tiles(_shape(values), tile)
    fitted = weight if fitted is None else fitted
    fit = MeshFit(shape, box_size, model, numbers_of(values, weight, tile=tile), shared=shared)
    center = fit.numbers.center
    normal = ExactSums.merged(_normal(values, fitted, t, center) for t in tiles)
    fit = replace(fit, polynomials=polynomials(normal, whole=fit.whole))
    of_mesh = blocks_of(Region.whole(shape), BLOCK).shape
    counts, scores = np.empty((*of_mesh, COUNTS)), np.empty((*of_mesh, fit.score_parts))
    for t in tiles:
        counts[blocks_of(t, BLOCK).slices] = count_blocks(weight[t.slices])

    def windows(t: Region) -> tuple[Window, Window, Window, Window]:
        boxes = [Window.about(part, t, fit.halo) for part in (values, weight, fitted)]
        return boxes[0], boxes[1], boxes[2], Window.about(counts, blocks_of(t, BLOCK), (COUNT_HALO, COUNT_HALO))

    for t in tiles:
        scores[blocks_of(t, BLOCK).slices] = fit.scores(t, *windows(t))
    made = LocalFit(*(np.empty(shape, dtype) for _ in range(4)))
    for t in tiles:
        of_tile = fit.fit(t, *windows(t), Window.about(scores, blocks_of(t, BLOCK), (SCORE_HALO, SCORE_HALO)))
        made.background[t.slices], made.error[t.slices] = of_tile.background, of_tile.error
        made.bandwidth[t.slices], made.degree[t.slices] = of_tile.bandwidth, of_tile.degree
    return made


def _normal(values: NDArray[Any], fitted: NDArray[Any], tile: Region, center: float) -> ExactSums:
    windows = (Window.about(part, tile, (0, 0)) for part in (values, fitted))
    return normal_sums(tile, *windows, shape=_shape(values), center=center)
