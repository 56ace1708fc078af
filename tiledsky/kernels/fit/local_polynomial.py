"""The sky of a mesh by local polynomial regression, with bandwidths that follow the sky, and its error.

At each cell a polynomial is fitted to the values of the boxes about it, weighted by a Gaussian of their distance (its
standard deviation is the bandwidth, it ends at three of them) and by their weights; its value at the cell is the sky
there (Cleveland 1979, J. Am. Stat. Assoc. 74, 829; Fan & Gijbels 1996). All sums are moments of the mesh.

Nobody knows the best bandwidth, and it differs from place to place. So the fits of several bandwidths, and
polynomials of the whole mesh, are averaged, each with the weight::

    exp(-(N log R + P) / (2 T))

R is the sum of squared weights times squared residuals, of boxes from fits made without them, over the sum of weights,
in a Gaussian window about the cell; N is the number of boxes in the window, P that of the parameters that the fit has
for them (the sum of their leverages). The residual of a box from the fit without it is that from the fit with it over
(1 - its leverage), which is what Akaike's criterion takes 2 P for; with P more it is one of the criteria that do not
choose too many parameters so often (Bhansali & Downham 1977, Biometrika 64, 547). For T = 1 these are the weights that
information criteria give to models (Buckland et al. 1997, Biometrics 53, 603). Narrow fits weigh most where the sky
bends on small scales; wide ones weigh most where it is smooth, in the limit one value for the whole image.

With boxes of variance ``s**2 / weight``, s**2 being R, a fit has the variance ``s**2 q' V q``, where q is the solution
of its normal equations for the value at the cell, V the moments of the squared Gaussian. (The boxes of large weights
dominate the fits, and R counts them most: if the weights are wrong, R is right for these boxes.) The error adds the
differences between the fits; variances are `shared` times as large where neighbouring boxes share noise
(`tiledsky.kernels.mesh.error.shared_noise`)::

    error**2 = sum of u_k (variance_k + (fit_k - average)**2)

The weights u leave P out, so that they trust wide fits less than the weights of the average do: the error then counts
differences between the fits that are too weak to change the average. Where boxes are missing, no fit shows how the sky
bends: `tiledsky.kernels.fit.gaps` measures how far the sky strays from such fits where there are boxes, and adds that.
(A fit of one given bandwidth has the error of noise alone.)

A mesh is fitted tile by tile, in two passes: the scores of all fits, from which their weights are known, then the fits
that weigh anything at a place. The narrowest, which are made at every cell, are scored by one of each two by two boxes:
their R is that of the next wider fit, times the ratio of both by these boxes. (Scored by these boxes alone, wide fits
differ by chance: on a flat sky the scatter is 1.7 times as large.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.averages import BLOCK, WINDOW_REACH, Averages, score_blocks, scored_boxes, windowed
from tiledsky.kernels.fit.gaps import NEAREST, REACH, SUMS, across_blocks, gap_variance
from tiledsky.kernels.fit.nodes import CellFits, Kernel
from tiledsky.kernels.fit.sums import FitNumbers, Polynomial
from tiledsky.kernels.fit.windows import ALIGNED, Floats, Window, blocks_of, weighted_cells

#: Bandwidths of the fits, in boxes: from this, by this factor, to this.
_NARROWEST, _RATIO, _WIDEST = 1.5, 2.0**0.5, 36.0
#: Fits at nodes so far apart are made for all of a tile at once: their Gaussians are wider than its parts.
_WIDE = 4
#: Blocks beside those of a tile that cells lie between (1), and what these are windows of.
SCORE_HALO = 1 + WINDOW_REACH
#: The same of the counts: of the cells too that differences reach across.
COUNT_HALO = SCORE_HALO + -(-REACH // BLOCK)


@dataclass(frozen=True)
class LocalFit:
    """The sky of a part of a mesh.

    Attributes
    ----------
    background : ndarray (rows, columns), float64
    error : ndarray (rows, columns), float64
        Its standard error; 0 for values without scatter, NaN if there is one box alone.
    bandwidth : ndarray (rows, columns), float64
        Mean bandwidth in pixels, as a geometric mean; polynomials of the whole mesh count as 1.4 times the widest.
    degree : ndarray (rows, columns), float64
        Mean degree of the polynomials.
    """

    background: Floats
    error: Floats
    bandwidth: Floats
    degree: Floats


@dataclass(frozen=True)
class FitModel:
    """Bandwidths and degrees of the fits that are averaged.

    Attributes
    ----------
    bandwidths : tuple of float
        Pixels, narrowest first.
    degree : int
        Of the polynomials.
    whole : int, optional
        Polynomials of the whole mesh up to this degree are averaged with them. None: the first bandwidth alone is
        asked for; one value for the whole mesh stands in where no box is in its reach.
    """

    bandwidths: tuple[float, ...]
    degree: int
    whole: int | None = None


def fit_model(
    shape: Pair,
    box_size: Pair,
    *,
    order: int,
    bandwidth: float | None,
    narrowest: float = 0.0,
    widest: float = 0.0,
) -> FitModel:
    """Choose bandwidths and degrees for a mesh of `shape`.

    Parameters
    ----------
    shape, box_size : (int, int)
    order : int
        Degree of the polynomials, 0 to 4.
    bandwidth : float, optional
        One bandwidth in pixels; None: all from 1.5 boxes (or `narrowest`, in pixels, if that is more) to 36 boxes (or
        `widest`) or the side of the mesh, and polynomials of the whole mesh up to the second degree.
    narrowest, widest : float
        Pixels; 0: as said.
    """
    if bandwidth is not None:
        return FitModel((float(bandwidth),), order)
    first = max(_NARROWEST * max(box_size), narrowest)
    last = min(widest or _WIDEST * max(box_size), max(n * b for n, b in zip(shape, box_size, strict=True)))
    bandwidths = [first]
    while bandwidths[-1] * _RATIO <= last * (1.0 + 1e-12):
        bandwidths.append(bandwidths[-1] * _RATIO)
    return FitModel(tuple(bandwidths), order, min(order, 2))


@dataclass(frozen=True)
class MeshFit:
    """The sky of a mesh, tile by tile: `scores` of all tiles first, then `fit`.

    Attributes
    ----------
    shape : (int, int)
        Of the mesh.
    box_size : (int, int)
        Pixels of a box.
    model : FitModel
    numbers : FitNumbers
        `tiledsky.kernels.fit.sums.BoxSums.numbers` of the whole mesh.
    polynomials : tuple of Polynomial
        Of the whole mesh (`tiledsky.kernels.fit.sums.polynomials`), up to the degree `whole`.
    shared : float
        Variance of means of many boxes, over what it would be if boxes did not share noise.

    Notes
    -----
    Without noise, polynomials up to the degree of the model are reproduced (quartics to 3e-5 of their range: between
    the cells that wide fits are made at, cubics are).
    Where few boxes carry a fit (corners, edges, holes) one of lower degree takes its place: where a typical box at the
    cell would have more leverage than 1. In holes that a fit does not reach, wider ones count alone.
    """

    shape: Pair
    box_size: Pair
    model: FitModel
    numbers: FitNumbers
    polynomials: tuple[Polynomial, ...] = ()
    shared: float = 1.0

    @property
    def whole(self) -> int:
        """Degree of the polynomials of the whole mesh that are asked for."""
        return self.model.whole or 0

    @property
    def typical(self) -> float:
        """Typical weight that fits are made with: robust rounds take of it what they take of the sum of all."""
        if not self.polynomials:
            return self.numbers.typical
        fitted = 1.0 / float(self.polynomials[0].inverse[0, 0])
        return self.numbers.typical * fitted / self.numbers.total

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Local fits, narrowest first."""
        return tuple(
            Kernel((bandwidth / self.box_size[0], bandwidth / self.box_size[1]), self.model.degree, min(self.shape))
            for bandwidth in self.model.bandwidths
        )

    @property
    def halo(self) -> Pair:
        """Cells beside a tile that `scores` and `fit` depend on."""
        halos = [kernel.halo for kernel in self.kernels]
        y, x = (max(REACH, *(halo[axis] for halo in halos)) for axis in (0, 1))
        return y, x

    def memory(self, tile: Pair) -> tuple[int, int]:
        """Bytes that `scores` and `fit` take for a tile of this shape, with what they make, beside what is given.

        `scores`: one of the fits, 30 a cell of the tile; or 60 a cell of the tile and the `REACH` of differences; 8 for
        each sum of a block. `fit`: for each of a block's sums 8 with the halo of windows while these are made, 32
        without from then on, beside one of the fits and 80 a cell of the tile, or 180 a cell.
        """
        cells, blocks = math.prod(tile), math.prod(-(-n // BLOCK) + 2 for n in tile)
        fits = max(kernel.memory(tile, self.shape) for kernel in self.kernels)
        near = math.prod(min(n + 2 * REACH, of) for n, of in zip(tile, self.shape, strict=True))
        halo = [-(-n // BLOCK) + 2 * COUNT_HALO for n in tile]
        windows = math.prod(min(n, -(-of // BLOCK)) for n, of in zip(halo, self.shape, strict=True))
        scores = max(fits + 30 * cells, 60 * near) + 8 * self.score_parts * blocks
        parts = 8 * self.score_parts
        return scores, max(parts * (windows + 2 * blocks), max(fits + 80 * cells, 180 * cells) + 4 * parts * blocks)

    @property
    def score_parts(self) -> int:
        """Sums of a block that `scores` makes."""
        return 2 * (len(self.model.bandwidths) + self.whole + 1) + (0 if self.model.whole is None else 1 + SUMS)

    @property
    def sampled(self) -> int:
        """How many of the fits, the narrowest, are scored by one of each two by two boxes: those made at every cell.

        The next one is scored by all boxes and by these, so that the fits are compared by the same boxes. None are
        if there is no next one.
        """
        steps = [kernel.step for kernel in self.kernels]
        return steps.count(1) if self.model.whole is not None and steps[-1] > 1 else 0

    def scores(self, tile: Region, values: Window, weight: Window, fitted: Window, counts: Window) -> Floats:
        """How well each fit predicts the boxes of a tile, as sums over blocks.

        Parameters
        ----------
        tile : Region
        values : Window
            Of the boxes, in the tile grown by `halo`; any number, also NaN, where the weight is 0.
        weight, fitted : Window
            Weights before robust rounds, and those that fits are made with: not above 0 where the former are not.
        counts : Window
            `tiledsky.kernels.fit.averages.count_blocks`, in the blocks of the tile grown by `COUNT_HALO`.

        Returns
        -------
        ndarray (block rows, block columns, `score_parts`), float64
            Two of each local fit, two of each polynomial of the whole mesh (0 for those that are left out); then,
            unless one bandwidth is asked for, the squares of the fit that the `sampled` ones are compared with, by the
            same boxes, and the sums of `tiledsky.kernels.fit.gaps.across_blocks`.

        Notes
        -----
        Memory: `memory`.
        """
        cells, judged = weighted_cells(values, weight, tile, self.numbers.center)
        used, every, some = fitted.cut(tile).astype(np.float64), (judged > 0.0).astype(np.uint8), scored_boxes(judged)
        sums = np.zeros((*blocks_of(tile, BLOCK).shape, self.score_parts))
        for k in self._made:
            times = some if k < self.sampled else every
            fits, own = self._fits(k, tile, values, fitted, wanted=times), sums[:, :, 2 * k : 2 * k + 2]
            if self.sampled == k > 0:
                score_blocks(cells, judged, used, some, fits.fit, fits.lever, own)
                sums[:, :, -SUMS - 1] = own[:, :, 0]
            score_blocks(cells, judged, used, times, fits.fit, fits.lever, own)
        if self.model.whole is not None:
            near = tile.grown((REACH, REACH), self.shape)
            cells, judged = weighted_cells(values, weight, near, self.numbers.center)
            mean = self._mean_weight(near, counts)
            sums[:, :, -SUMS:] = across_blocks(tile, cells, judged, near, mean)
        return sums

    def fit(
        self, tile: Region, values: Window, weight: Window, fitted: Window, counts: Window, scores: Window
    ) -> LocalFit:
        """Make the sky of a tile.

        Parameters
        ----------
        tile, values, weight, fitted, counts
            See `scores`.
        scores : Window
            `scores`, in the blocks of the tile grown by `SCORE_HALO`.

        Notes
        -----
        Memory: `memory`.
        """
        blocks, places = self._blocks(tile), self._made
        counted, summed = self._windows(counts, blocks), self._windows(scores, blocks)
        if self.sampled:
            every, some = summed[2 * self.sampled], summed[-SUMS - 1]
            summed[: 2 * self.sampled : 2] *= np.divide(every, some, out=np.ones_like(every), where=some > 0.0)
        which = [part for k in places for part in (2 * k, 2 * k + 1)]
        averages = Averages(tile, blocks, counts=counted, scores=summed[which], floor=self.numbers.floor)
        if self.model.whole is None:
            self._one_bandwidth(averages, values, fitted)
        else:
            for squares in (averages.wanted, averages.missing):
                for i, parts in enumerate(squares()):
                    for region in _regions(parts, tile, rows=self._step(places[i]) < _WIDE):
                        self._add(averages, i, region, parts, values, fitted)
        mean, variance, log_h, degree = averages.result()
        if self.model.whole is not None:  # else the one bandwidth is asked for, and the error is that of noise alone
            near = tile.grown((NEAREST, NEAREST), self.shape)
            judged, noise = weight.cut(near).astype(np.float64), Window(averages.least, blocks)
            mean_weight = self._mean_weight(near, counts)
            variance += gap_variance(tile, judged, near, mean_weight, summed[-SUMS:], noise)
        if self.numbers.constant:
            variance[:] = 0.0
        if self.numbers.alone:
            variance[:] = np.nan
        return LocalFit(mean + self.numbers.center, np.sqrt(variance), elementary.exps(log_h), degree)

    def _one_bandwidth(self, averages: Averages, values: Window, fitted: Window) -> None:
        """Fits of the one bandwidth; one value for the whole mesh where no box is in its reach."""
        everywhere = np.ones(averages.squares, np.bool_)
        self._add(averages, 0, averages.tile, everywhere, values, fitted)
        found = averages.sums.copy()
        if len(self._made) > 1 and not (found[1] > 0.0).all():
            self._add(averages, 1, averages.tile, everywhere, values, fitted)
            averages.sums = np.where(found[1] > 0.0, found, averages.sums)

    def _add(
        self, averages: Averages, i: int, region: Region, squares: NDArray[np.bool_], values: Window, fitted: Window
    ) -> None:
        """Make one of the fits in a part of the tile, and add it to some squares."""
        k, bandwidths = self._made[i], self.model.bandwidths
        log_h = elementary.log(bandwidths[k] if k < len(bandwidths) else bandwidths[-1] * _RATIO)
        averages.add(i, self._fits(k, region, values, fitted), region, squares, log_h=log_h)

    @property
    def _made(self) -> list[int]:
        """Places among the scores of the fits that are made: polynomials may be left out."""
        n = len(self.model.bandwidths)
        return [*range(n), *(n + polynomial.degree for polynomial in self.polynomials)]

    def _step(self, k: int) -> int:
        """Cells between the nodes of a fit; those of a polynomial are fitted at all."""
        return self.kernels[k].step if k < len(self.model.bandwidths) else _WIDE

    def _fits(
        self, k: int, region: Region, values: Window, fitted: Window, *, wanted: NDArray[np.uint8] | None = None
    ) -> CellFits:
        """Fits that have the place k among the scores, in a region: with variances, or at the cells that are wanted."""
        kernels = self.kernels
        if k < len(kernels):
            fits = kernels[k].fits(
                region,
                values,
                fitted,
                shape=self.shape,
                center=self.numbers.center,
                typical=self.typical,
                unit=wanted is None,
                wanted=wanted,
            )
            fits.unit[:] *= self.shared
            return fits
        polynomial = self.polynomials[k - len(kernels)]
        fit, lever = polynomial.at(region, self.shape)
        return CellFits(fit, lever, self.shared * lever, np.full(region.shape, float(polynomial.degree)))

    def _blocks(self, region: Region) -> Region:
        """Blocks that the cells of a region lie between."""
        of_mesh = blocks_of(Region.whole(self.shape), BLOCK).shape
        return blocks_of(region, BLOCK).grown((1, 1), of_mesh)

    def _windows(self, sums: Window, blocks: Region) -> Floats:
        """Sums over the windows about blocks, (sums, rows, columns)."""
        near = blocks.grown((WINDOW_REACH, WINDOW_REACH), blocks_of(Region.whole(self.shape), BLOCK).shape)
        return windowed(Window(sums.cut(near), near), blocks)

    def _mean_weight(self, region: Region, counts: Window) -> Window:
        """Mean weight of the boxes in the windows about the blocks that the cells of a region lie between."""
        blocks = self._blocks(region)
        number, weights = self._windows(counts, blocks)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Window(np.where(number > 0.0, weights / number, 0.0), blocks)


def _regions(squares: NDArray[np.bool_], tile: Region, *, rows: bool) -> Iterator[Region]:
    """Regions of a tile that cover some of its squares: runs of each row, or one for all."""
    y, x = np.nonzero(squares)
    if not y.size:
        return
    ends = [(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1)]
    if rows and y.size < 0.7 * (ends[0][1] - ends[0][0]) * (ends[0][3] - ends[0][2]):
        begins = np.flatnonzero(np.concatenate(([True], (np.diff(y) > 0) | (np.diff(x) > 1))))
        ends = [
            (int(y[i]), int(y[i]) + 1, int(x[i]), int(x[j - 1]) + 1)
            for i, j in zip(begins, [*begins[1:], y.size], strict=True)
        ]
    for y0, y1, x0, x1 in ends:
        yield Region(
            tile.y0 + y0 * ALIGNED,
            min(tile.y0 + y1 * ALIGNED, tile.y1),
            tile.x0 + x0 * ALIGNED,
            min(tile.x0 + x1 * ALIGNED, tile.x1),
        )
