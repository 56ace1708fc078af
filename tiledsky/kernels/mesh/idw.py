"""Inverse-distance weighting (Shepard) from the good boxes of a mesh down to pixels.

Twice the distance from a pixel to a box centre has integer components, so four times its square, called `q` here, is
an exact integer that orders the boxes. Pixels of the same phase (place within their box) meet the boxes around in the
same order. There are two ways to a pixel; each adds the same terms in the same order, distance by distance and row by
row within one, so that the bits do not depend on the way:

- along the sorted list of its phase, for many boxes side by side; boxes that are not good add exact zeros;
- where the list ends too early (deep in a hole, very large boxes): from candidates that a k-d tree finds for the box.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiledsky.errors import ParameterError
from tiledsky.kernels._simd import elementary
from tiledsky.kernels.mesh.mesh import Region, check_pixels_wanted, region_cells

_LIST_BYTES = 32 << 20  # largest table of sorted lists; where it is not enough the boxes are large, hence few
_TREE_CELLS = 2048  # boxes whose candidates are held at once
_LANES = 96  # boxes side by side: their sums stay in the cache, and few wait for the last of them

Array = NDArray[Any]
Pair = tuple[int, int]
Decay = tuple[float, float]  # power, regularization
Tables = tuple[Array, Array, Array, Array, Array]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _weight(q: int, power: float, regularization: float) -> float:
    if power == 0.0:
        return 1.0 / (1.0 + regularization)
    distance = np.sqrt(np.float64(q)) * 0.5
    return 1.0 / (elementary.power(distance, power) + regularization)


@numba.njit(nogil=True, cache=True)
def _list_phases(by: int, bx: int, radius: int, ry: int, rx: int, power: float, regularization: float) -> Tables:
    """For each phase ``py * bx + px`` the boxes with 2 d <= radius, nearest first: their number, then, a row a phase,
    offsets in boxes, first entry that is as near as this one, weight. `tie` keeps the loop, and `_weight`, scalar.
    """
    phases, width = by * bx, 2 * rx + 1
    size = (2 * ry + 1) * width
    length = np.zeros(phases, np.int32)
    di, dj = np.zeros((phases, size), np.int16), np.zeros((phases, size), np.int16)
    tie, weight = np.zeros((phases, size), np.int32), np.zeros((phases, size))
    keys = np.empty(size, np.int64)
    for p in range(phases):
        n = 0
        for k in range(size):
            dy = 2 * (p // bx - (k // width - ry) * by) - (by - 1)
            dx = 2 * (p % bx - (k % width - rx) * bx) - (bx - 1)
            if dy * dy + dx * dx <= radius * radius:
                keys[n] = (dy * dy + dx * dx) * size + k
                n += 1
        keys[:n].sort()
        length[p] = n
        for k in range(n):
            q, place = keys[k] // size, keys[k] % size
            di[p, k], dj[p, k] = place // width - ry, place % width - rx
            tie[p, k] = tie[p, k - 1] if k > 0 and keys[k - 1] // size == q else k
            if q > 0:  # a pixel on the centre of a good box takes its value: that weight is not used
                weight[p, k] = _weight(q, power, regularization)
    return length, di, dj, tie, weight


@lru_cache(maxsize=2)
def _lists(by: int, bx: int, n: int, power: float, regularization: float) -> tuple[Tables, Pair] | None:
    """About 6 n + 60 boxes a phase, enough for a corner or for half of the boxes missing; and their largest offsets."""
    radius = int(np.ceil(2 * np.sqrt((6 * n + 60) * by * bx / np.pi)))
    ry, rx = (radius + by - 1) // (2 * by), (radius + bx - 1) // (2 * bx)
    if by * bx * (2 * ry + 1) * (2 * rx + 1) * 16 > _LIST_BYTES:
        return None
    return _list_phases(by, bx, radius, ry, rx, power, regularization), (ry, rx)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_nearest(
    values: Array, good: Array, at: int, stride: int, lanes: int, boxes: tuple[Array, ...], n: float, sums: Tables
) -> None:
    """For `lanes` cells from the flat index `at` on: boxes taken, their weight, their weight x value, nearest first.

    Boxes at one distance are taken together, and share the places that are left equally. Indices are unsigned and
    arrays whole, not slices: half of the time otherwise.
    """
    di, dj, tie, weight = boxes
    count, total, sky, here, added = sums
    count[:lanes], total[:lanes], sky[:lanes] = 0.0, 0.0, 0.0
    k, lo, hi = 0, np.uint64(0), np.uint64(lanes)  # the cells that are not done lie from lo to hi
    one = np.uint64(1)
    while k < tie.size and lo < hi:
        first, w = k, weight[k]
        c = np.uint64(at + di[k] * stride + dj[k])
        k += 1
        if k == tie.size or tie[k] != first:
            for m in range(lo, hi):
                take = min(good[c + m], n - count[m])
                count[m] += take
                total[m] += w * take
                sky[m] += w * take * values[c + m]
        else:
            for m in range(lo, hi):
                here[m], added[m] = good[c + m], values[c + m]
            while k < tie.size and tie[k] == first:
                c = np.uint64(at + di[k] * stride + dj[k])
                for m in range(lo, hi):
                    here[m] += good[c + m]
                    added[m] += values[c + m]
                k += 1
            for m in range(lo, hi):
                take = min(here[m], n - count[m])
                count[m] += take
                total[m] += w * take
                sky[m] += w * (take / max(here[m], 1.0)) * added[m]
        while lo < hi and count[lo] >= n:
            lo += one
        while lo < hi and count[hi - one] >= n:
            hi -= one


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _by_lists(
    padded: Array, deep: Array, size: Pair, region: Region, pad: Pair, lists: Tables, n: int, out: Array
) -> None:
    """Pixels of the region that the lists suffice for; the other boxes are set in `deep`.

    `padded`: values, 0 where not good, and good, with `pad` boxes that are not good around.
    """
    (by, bx), (y0, y1, x0, x1) = size, region
    length, di, dj, tie, weight = lists
    count, total, sky = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    sums = (count, total, sky, np.empty(_LANES), np.empty(_LANES))
    flat_values, flat_good, stride = padded[0].ravel(), padded[1].ravel(), padded.shape[2]
    for y in range(y0, y1):
        i, py = y // by, y % by
        for px in range(bx):
            p, stop = py * bx + px, -((px - x1) // bx)
            boxes = (di[p, : length[p]], dj[p, : length[p]], tie[p, : length[p]], weight[p, : length[p]])
            centred = 2 * py == by - 1 and 2 * px == bx - 1
            for j in range(-((px - x0) // bx), stop, _LANES):
                lanes, at = min(_LANES, stop - j), (i + pad[0]) * stride + j + pad[1]
                _add_nearest(flat_values, flat_good, at, stride, lanes, boxes, float(n), sums)
                for lane in range(lanes):
                    x = (j + lane) * bx + px - x0
                    if centred and flat_good[at + lane] > 0.0:
                        out[y - y0, x] = flat_values[at + lane]
                    elif count[lane] < n:
                        deep[i, j + lane] = True
                    else:
                        out[y - y0, x] = sky[lane] / total[lane]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _choose(y: int, x: int, cy: Array, cx: Array, sky: Array, n: int, decay: Decay, work: Array) -> float:
    """One pixel from candidates (twice their centres, row by row) that hold the n nearest."""
    q, near = work[0], work[1]
    held = 0
    for k in range(cy.size):
        q[k] = (2 * y - cy[k]) ** 2 + (2 * x - cx[k]) ** 2
        if q[k] == 0:
            return sky[k]
        if held < n or q[k] < near[n - 1]:
            m = held
            while m > 0 and near[m - 1] > q[k]:
                near[m] = near[m - 1]
                m -= 1
            near[m] = q[k]
            held = min(held + 1, n)
    farthest, chosen, held = near[n - 1], work[2], 0
    for k in range(cy.size):
        if q[k] <= farthest:
            m = held
            while m > 0 and q[chosen[m - 1]] > q[k]:
                chosen[m] = chosen[m - 1]
                m -= 1
            chosen[m] = k
            held += 1
    total, result, start = 0.0, 0.0, 0
    while start < held:
        here, added, stop = q[chosen[start]], 0.0, start
        while stop < held and q[chosen[stop]] == here:
            added += sky[chosen[stop]]
            stop += 1
        w, take = _weight(here, decay[0], decay[1]), float(min(stop, n) - start)
        total += w * take
        result += w * (take / (stop - start)) * added
        start = stop
    return result / total


@numba.njit(nogil=True, cache=True)
def _by_candidates(
    cells: Array, stop: Array, found: tuple[Array, ...], size: Pair, region: Region, n: int, decay: Decay, out: Array
) -> None:
    """Pixels of the region in `cells`; the candidates of cell c (twice y and x, value) end before ``stop[c]``."""
    (by, bx), (y0, y1, x0, x1), (cy, cx, sky) = size, region, found
    work = np.empty((3, cy.size + 1), np.int64)
    start = 0
    for c in range(cells.shape[0]):
        here = slice(start, stop[c])
        i, j = cells[c, 0], cells[c, 1]
        for y in range(max(y0, i * by), min(y1, (i + 1) * by)):
            for x in range(max(x0, j * bx), min(x1, (j + 1) * bx)):
                out[y - y0, x - x0] = _choose(y, x, cy[here], cx[here], sky[here], n, decay, work)
        start = stop[c]


def _evaluate_deep(mesh: Array, cells: Array, box_size: Pair, region: Region, n: int, decay: Decay, out: Array) -> None:
    """A pixel is within `half` of its box's centre, so its n nearest are within 2 half + the centre's own n-th."""
    size = np.array(box_size)
    good = np.argwhere(~np.isnan(mesh))
    centres = 2 * good * size + size - 1
    values = mesh[good[:, 0], good[:, 1]]
    from scipy.spatial import cKDTree  # a fifth of a second, and few meshes need it

    tree = cKDTree(centres)
    half = float(np.hypot(*(size - 1)))
    for first in range(0, len(cells), _TREE_CELLS):
        some = cells[first : first + _TREE_CELLS]
        middle = 2 * some * size + size - 1
        farthest = tree.query(middle, k=[n])[0][:, 0]
        lists = tree.query_ball_point(middle, (farthest + 2 * half) * (1 + 1e-9) + 1e-9, return_sorted=True)
        chosen = np.concatenate([np.asarray(part, dtype=np.int64) for part in lists])
        stop = np.cumsum([len(part) for part in lists])
        found = (np.ascontiguousarray(centres[chosen, 0]), np.ascontiguousarray(centres[chosen, 1]), values[chosen])
        _by_candidates(some, stop, found, box_size, region, n, decay, out)


def idw_evaluate(
    mesh: Array,
    box_size: Pair,
    region: Region,
    *,
    n_neighbors: int = 10,
    power: float = 1.0,
    regularization: float = 0.0,
    origin: Pair = (0, 0),
    mesh_shape: Pair | None = None,
    dtype: DTypeLike = np.float32,
) -> Array:
    """Pixels of a region by Shepard's inverse-distance weighting of the nearest good boxes.

    Parameters
    ----------
    mesh : ndarray (my, mx), float32 or float64
        NaN = excluded box, not used. Whole, or a window that holds at least the region's
        `tiledsky.kernels.mesh.reach.idw_window`.
    box_size : (int, int)
        Pixels of a box (by, bx).
    region : (int, int, int, int)
        Pixels (y0, y1, x0, x1) of the image, ends excluded.
    n_neighbors : int
        Good boxes used; all of them if there are fewer.
    power, regularization : float
        A box at distance d (pixels) from pixel to centre has the weight ``1 / (d**power + regularization)``.
    origin : (int, int)
        Whole-mesh index of ``mesh[0, 0]``.
    mesh_shape : (int, int), optional
        Shape of the whole mesh; default the shape of `mesh`.
    dtype : dtype
        float32 or float64 of the result.

    Returns
    -------
    ndarray (y1 - y0, x1 - x0)
        A pixel has the same bits for any region, and any window that holds its `idw_window`.

    Raises
    ------
    ParameterError
        A parameter out of range, a region that is not within the window, or no good box at all.

    Notes
    -----
    As photutils' ``BkgIDWInterpolator`` (`photutils.utils.ShepardIDWInterpolator`): a pixel on the centre of a good box
    takes its value. Where several boxes tie for the last places, photutils takes those its tree meets first; here they
    share the places: of t boxes at the n-th distance, with p places left, each gets p / t of its weight.

    Memory: at most 32 MiB of sorted lists for each of the last two sets of parameters of a process; 50 bytes a box of
    the window; in deep holes 100 more, and some 20 MB of candidates.
    """
    _check(n_neighbors, power, regularization)
    cells = region_cells(region, box_size, (mesh.shape[0], mesh.shape[1]) if mesh_shape is None else mesh_shape)
    check_pixels_wanted(mesh.shape, origin, cells, dtype)
    n = min(n_neighbors, int(np.count_nonzero(~np.isnan(mesh))))
    if n == 0:
        raise ParameterError(
            f"all {mesh.size} boxes given are NaN, no sky for {region}; raise exclude_percentile, or see idw_window"
        )
    decay = (0.0, 0.0) if n == 1 else (float(power), float(regularization))  # one box: its value itself
    by, bx = int(box_size[0]), int(box_size[1])
    y, x = origin[0] * by, origin[1] * bx
    local = (region[0] - y, region[1] - y, region[2] - x, region[3] - x)
    out = np.empty((region[1] - region[0], region[3] - region[2]), dtype)
    _evaluate(mesh.astype(np.float64), (by, bx), local, n, decay, _lists(by, bx, n_neighbors, *decay), out)
    return out


def _evaluate(
    mesh: Array, size: Pair, region: Region, n: int, decay: Decay, lists: tuple[Tables, Pair] | None, out: Array
) -> None:
    """Both ways; `region` counts from the first pixel of `mesh`."""
    deep = np.zeros(mesh.shape, np.bool_)
    if lists is None:
        i0, i1, j0, j1 = region_cells(region, size, mesh.shape)
        deep[i0:i1, j0:j1] = True
    else:
        tables, (ry, rx) = lists
        good = ~np.isnan(mesh)
        padded = np.pad(np.stack((np.where(good, mesh, 0.0), good)), ((0, 0), (ry, ry), (rx, rx)))
        _by_lists(padded, deep, size, region, (ry, rx), tables, n, out)
    if deep.any():
        _evaluate_deep(mesh, np.argwhere(deep), size, region, n, decay, out)


def _check(n_neighbors: int, power: float, regularization: float) -> None:
    if n_neighbors < 1:
        raise ParameterError(f"n_neighbors {n_neighbors} leaves no box to take the sky from; give n_neighbors >= 1")
    for name, value in (("power", power), ("regularization", regularization)):
        if not 0.0 <= value < np.inf:
            raise ParameterError(f"{name} {value} would favour far boxes, or none; give {name} >= 0 and finite")
