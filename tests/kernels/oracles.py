"""The kernels once more in plain numpy, as their definitions read: slow, short, for small arrays."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def smoothed(padded, taps, mask=None):
    """Weighted mean of the pixels that are there, under ``outer(taps, taps)``; NaN where none is."""
    missing = np.isnan(padded) if mask is None else np.isnan(padded) | mask
    windows = sliding_window_view(np.where(missing, 0.0, padded), (taps.size, taps.size))
    there = sliding_window_view(~missing, (taps.size, taps.size))
    kernel = np.outer(taps, taps)
    weight = (kernel * there).sum((2, 3))
    total = (kernel * windows).sum((2, 3))
    return np.divide(total, weight, out=np.full(weight.shape, np.nan), where=weight > 0) * kernel.sum()


def detected(image, threshold, n_pixels, connectivity=8):
    """Pixels above a threshold in groups of at least n_pixels: each group is flooded from its first pixel."""
    above = image > threshold
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y or x) and (connectivity == 8 or not (y and x))]
    kept, seen = np.zeros(above.shape, bool), ~above
    for start in map(tuple, np.argwhere(above)):
        group, waiting = [], [] if seen[start] else [start]
        seen[start] = True
        while waiting:
            pixel = waiting.pop()
            group.append(pixel)
            for dy, dx in steps:
                y, x = pixel[0] + dy, pixel[1] + dx
                if 0 <= y < above.shape[0] and 0 <= x < above.shape[1] and not seen[y, x]:
                    seen[y, x] = True
                    waiting.append((y, x))
        if len(group) >= n_pixels:
            kept[tuple(np.transpose(group))] = True
    return kept


def disc(radius):
    """Pixels whose centres are within the radius of the middle one's."""
    r = int(radius)
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    return x * x + y * y <= radius * radius


def count_under(mask_padded, footprint):
    """Set pixels under a footprint, in valid mode."""
    return sliding_window_view(mask_padded, footprint.shape)[:, :, footprint].sum(-1)


def box_values(data, box, clip_sigma=3.0, maxiters=10):
    """Yield (row, column, values left) of every box after clipping about the median."""
    for i in range(0, data.shape[0], box[0]):
        for j in range(0, data.shape[1], box[1]):
            values = data[i : i + box[0], j : j + box[1]].astype(np.float64)
            values = values[np.isfinite(values)]
            for _ in range(maxiters):
                if not values.size:
                    break
                kept = values[np.abs(values - np.median(values)) <= clip_sigma * values.std()]
                if kept.size == values.size:
                    break
                values = kept
            yield i // box[0], j // box[1], values


def mad_std(values):
    """Standard deviation of a Gaussian with this median absolute deviation."""
    return 1.482602218505602 * np.median(np.abs(values - np.median(values)))


def sextractor(values):
    """2.5 median - 1.5 mean where the two are within 0.3 standard deviations, else the median."""
    median, mean, std = np.median(values), values.mean(), values.std()
    return 2.5 * median - 1.5 * mean if abs(mean - median) < 0.3 * std else median


def biweight_location(values):
    """Mean about the median with weights that fall to 0 at six median absolute deviations."""
    median = np.median(values)
    u = (values - median) / (6.0 * np.median(np.abs(values - median)))
    weight = np.where(np.abs(u) < 1, (1 - u**2) ** 2, 0.0)
    return median + (weight * (values - median)).sum() / weight.sum()


def biweight_scale(values):
    """Square root of the biweight midvariance, tuned to nine median absolute deviations."""
    d = values - np.median(values)
    u = d / (9.0 * np.median(np.abs(d)))
    inside = np.abs(u) < 1
    d, u = d[inside], u[inside]
    below = ((1 - u**2) * (1 - 5 * u**2)).sum()
    return np.sqrt(values.size * (d**2 * (1 - u**2) ** 4).sum()) / abs(below)


LOCATIONS = {
    "median": np.median,
    "mean": np.mean,
    "mode": lambda values: 3 * np.median(values) - 2 * np.mean(values),
    "mmm": lambda values: 3 * np.median(values) - 2 * np.mean(values),
    "sextractor": sextractor,
    "biweight": biweight_location,
}
SCALES = {"std": np.std, "mad_std": mad_std, "biweight": biweight_scale}


class SharedTies:
    """`photutils.utils.ShepardIDWInterpolator`, but points that tie for the last places share them.

    By all distances; the sums are made distance by distance, point by point within one.
    """

    def __init__(self, coordinates, values):
        self.coordinates, self.values = np.asarray(coordinates), np.asarray(values, float)

    def __call__(self, positions, n_neighbors=10, *, power=1.0, eps=0.0, regularization=0.0):
        assert (power, eps, regularization) == (1.0, 0.0, 0.0)
        return np.array([self._at(position, n_neighbors) for position in positions])

    def _at(self, position, places):
        square = ((self.coordinates - position) ** 2).sum(1)
        near = np.sort(square[square <= np.sort(square)[:places][-1]])
        total = sky = 0.0
        for q in np.unique(near):
            tied = self.values[square == q]
            weight = 1 / np.sqrt(q) * min(tied.size, places)
            # cumsum adds one after the other, which Python's sum does not since 3.12
            total, sky, places = total + weight, sky + weight * (tied.cumsum()[-1] / tied.size), places - tied.size
        return sky / total


def filled(mesh, neighbours=10, *, where=True):
    """Fill each NaN from its nearest good cells, by 1 / distance; cells that tie for the last places share them."""
    good, holes = ~np.isnan(mesh), np.isnan(mesh) & where
    result = mesh.copy()
    result[holes] = SharedTies(np.argwhere(good), mesh[good])(np.argwhere(holes), neighbours)
    return result


def tied(mesh, neighbours=10):
    """Whether cells of a mesh are filled with a choice among cells that tie for the last places."""
    good = np.argwhere(~np.isnan(mesh))
    result = np.zeros(mesh.shape, bool)
    if len(good) > neighbours:
        for hole in np.argwhere(np.isnan(mesh)):
            square = np.sort(((good - hole) ** 2).sum(1))
            result[tuple(hole)] = square[neighbours - 1] == square[neighbours]
    return result


def filtered(mesh, size):
    """Median of the window about each cell, of the cells that are there."""
    reach = [(n // 2, n // 2) for n in size]
    return np.nanmedian(sliding_window_view(np.pad(mesh, reach, constant_values=np.nan), size), axis=(2, 3))


def _mirrored(index, n):
    index = index % (2 * n)
    return np.where(index < n, index, 2 * n - 1 - index)


def _cubic(distance):
    """The cubic B-spline."""
    d = np.abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.where(d < 2, (2 - d) ** 3 / 6, 0.0))


def _spline_matrix(cells, box):
    """Matrix from cells to pixels along an axis: solve for the coefficients, then add up the B-splines."""
    index = np.arange(-3, cells + 3)

    def basis(positions):
        matrix = np.zeros((positions.size, cells))
        for i in index:
            matrix[:, _mirrored(i, cells)] += _cubic(positions - i)
        return matrix

    pixels = (np.arange(cells * box) - (box - 1) / 2) / box
    return basis(pixels) @ np.linalg.inv(basis(np.arange(cells)))


def drawn_out(mesh):
    """Mesh with whole mirror images of itself, 8 cells or more, on all sides, and how many cells come before it."""
    before = [-(-8 // n) * n for n in mesh.shape]
    return np.pad(mesh, [(n, n) for n in before], mode="symmetric"), before


def spline_surface(mesh, box):
    """Pixels of the cubic spline through the cells' centres, mirrored at the outer edges."""
    return _spline_matrix(mesh.shape[0], box[0]) @ mesh @ _spline_matrix(mesh.shape[1], box[1]).T


def idw_surface(mesh, box, n_neighbors, power, regularization):
    """Shepard's weighting of the nearest good cells; cells that tie for the last places share them."""
    size = np.array(box)
    cells = np.argwhere(~np.isnan(mesh))
    values = mesh[tuple(cells.T)]
    result = np.empty(size * mesh.shape)
    for pixel in np.ndindex(*result.shape):
        # twice the distance has whole components, so equal distances are equal numbers
        square = ((2 * (np.array(pixel) - cells * size) - (size - 1)) ** 2).sum(1)
        if square.min() == 0:
            result[pixel] = values[square.argmin()]
            continue
        last = np.sort(square)[min(n_neighbors, square.size) - 1]
        share = np.where(square < last, 1.0, 0.0)
        tied = square == last
        share[tied] = (min(n_neighbors, square.size) - share.sum()) / tied.sum()
        weight = share / ((np.sqrt(square) / 2) ** power + regularization)
        result[pixel] = (weight * values).sum() / weight.sum()
    return result
