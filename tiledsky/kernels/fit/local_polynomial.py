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
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tiledsky.geometry import Pair, Region
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.fit.averages import BLOCK, WINDOW_REACH, Averages, score_blocks, windowed
from tiledsky.kernels.fit.gaps import NEAREST, REACH, SUMS, across_blocks, gap_variance
from tiledsky.kernels.fit.nodes import CellFits, Kernel
from tiledsky.kernels.fit.sums import FitNumbers, Polynomial
from tiledsky.kernels.fit.windows import Floats, Window, blocks_of, weighted_cells

#: Bandwidths of the fits, in boxes: from this, by this factor, to this.
_NARROWEST, _RATIO, _WIDEST = 1.5, 2.0**0.5, 36.0
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


def fit_model(shape: Pair, box_size: Pair, *, order: int, bandwidth: float | None, narrowest: float = 0.0) -> FitModel:
    """Choose bandwidths and degrees for a mesh of `shape`.

    Parameters
    ----------
    shape, box_size : (int, int)
    order : int
        Degree of the polynomials, 0 to 4.
    bandwidth : float, optional
        One bandwidth in pixels; None: all from 1.5 boxes (or `narrowest`, in pixels, if that is more) to 36 boxes or
        the side of the mesh, and polynomials of the whole mesh up to the second degree.
    narrowest : float
    """
    if bandwidth is not None:
        return FitModel((float(bandwidth),), order)
    first = max(_NARROWEST * max(box_size), narrowest)
    last = min(_WIDEST * max(box_size), max(n * b for n, b in zip(shape, box_size, strict=True)))
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
    def kernels(self) -> tuple[Kernel, ...]:
        """Local fits, narrowest first."""
        return tuple(
            Kernel((bandwidth / self.box_size[0], bandwidth / self.box_size[1]), self.model.degree)
            for bandwidth in self.model.bandwidths
        )

    @property
    def halo(self) -> Pair:
        """Cells beside a tile that `scores` and `fit` depend on."""
        halos = [kernel.halo for kernel in self.kernels]
        y, x = (max(REACH, *(halo[axis] for halo in halos)) for axis in (0, 1))
        return y, x

    @property
    def score_parts(self) -> int:
        """Sums of a block that `scores` makes."""
        return 2 * (len(self.model.bandwidths) + self.whole + 1) + (0 if self.model.whole is None else SUMS)

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
            Two of each local fit, two of each polynomial of the whole mesh (0 for those that are left out), then those
            of `tiledsky.kernels.fit.gaps.across_blocks`, unless one bandwidth is asked for.

        Notes
        -----
        Memory: see `tiledsky.kernels.fit.nodes.Kernel.fits`; 24 bytes a cell of the tile; 8 `score_parts` bytes a block
        of the tile.
        """
        cells, judged = weighted_cells(values, weight, tile, self.numbers.center)
        used = fitted.cut(tile).astype(np.float64)
        sums = np.zeros((*blocks_of(tile, BLOCK).shape, self.score_parts))
        for k, fits in self._candidates(tile, values, fitted, unit=False):
            score_blocks(cells, judged, used, fits.fit, fits.lever, sums[:, :, 2 * k : 2 * k + 2])
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
        Memory: see `tiledsky.kernels.fit.nodes.Kernel.fits`; 180 bytes a cell of the tile; 8 `score_parts` + 48 bytes a
        block of the tile and the halo of scores.
        """
        blocks = self._blocks(tile, margin=1)
        number, weights = np.moveaxis(self._windows(counts, blocks), 2, 0)
        summed = self._windows(scores, blocks)
        averages = Averages(tile, blocks, number=number, weights=weights, floor=self.numbers.floor)
        averaged, before = self.model.whole is not None, averages.sums
        for k, fits in self._candidates(tile, values, fitted, unit=True):
            if k == len(self.model.bandwidths) and not averaged:
                before = averages.sums.copy()
                if (before[1] > 0.0).all():
                    break
            averages.add(fits, summed[:, :, 2 * k], summed[:, :, 2 * k + 1], log_h=self._log_h(k))
        if not averaged:
            averages.sums = np.where(before[1] > 0.0, before, averages.sums)
        mean, variance, log_h, degree = averages.result()
        if averaged:  # else the one bandwidth is asked for, and the error is that of noise alone
            near = tile.grown((NEAREST, NEAREST), self.shape)
            noise, gaps = Window(averages.least, blocks), np.moveaxis(summed[:, :, -SUMS:], 2, 0)
            judged = weight.cut(near).astype(np.float64)
            variance += gap_variance(tile, judged, near, self._mean_weight(near, counts), gaps, noise)
        if self.numbers.constant:
            variance[:] = 0.0
        if self.numbers.alone:
            variance[:] = np.nan
        return LocalFit(mean + self.numbers.center, np.sqrt(variance), elementary.exps(log_h), degree)

    def _log_h(self, k: int) -> float:
        bandwidths = self.model.bandwidths
        return elementary.log(bandwidths[k] if k < len(bandwidths) else bandwidths[-1] * _RATIO)

    def _candidates(
        self, tile: Region, values: Window, fitted: Window, *, unit: bool
    ) -> Iterator[tuple[int, CellFits]]:
        """Fits of a tile and their places among the scores."""
        kernels, n = self.kernels, self.numbers
        for k, kernel in enumerate(kernels):
            fits = kernel.fits(tile, values, fitted, shape=self.shape, center=n.center, typical=n.typical, unit=unit)
            fits.unit[:] *= self.shared
            yield k, fits
        for polynomial in self.polynomials:
            fit, lever = polynomial.at(tile, self.shape)
            degree = np.full(tile.shape, float(polynomial.degree))
            yield len(kernels) + polynomial.degree, CellFits(fit, lever, self.shared * lever, degree)

    def _blocks(self, region: Region, *, margin: int) -> Region:
        """Blocks of a region, and so many more on each side."""
        of_mesh = blocks_of(Region.whole(self.shape), BLOCK).shape
        return blocks_of(region, BLOCK).grown((margin, margin), of_mesh)

    def _windows(self, sums: Window, blocks: Region) -> Floats:
        """Sums over the windows about blocks, (rows, columns, sums)."""
        near = blocks.grown((WINDOW_REACH, WINDOW_REACH), blocks_of(Region.whole(self.shape), BLOCK).shape)
        data, inner = sums.cut(near), blocks.within(near)
        return np.stack([windowed(data[:, :, k])[inner] for k in range(data.shape[2])], axis=2)

    def _mean_weight(self, region: Region, counts: Window) -> Window:
        """Mean weight of the boxes in the windows about the blocks that the cells of a region lie between."""
        blocks = self._blocks(region, margin=1)
        number, weights = np.moveaxis(self._windows(counts, blocks), 2, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Window(np.where(number > 0.0, weights / number, 0.0), blocks)
