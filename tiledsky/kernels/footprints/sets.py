"""Which footprints each pixel lies in: from planes of bits, or of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Footprints of a pixel, by their numbers, in rising order.
Members = tuple[int, ...]


def sets_of(planes: Sequence[NDArray[Any]], *, labels: bool) -> tuple[NDArray[np.int32], list[Members]]:
    """Return the sets of footprints of a tile, and which each pixel has.

    Parameters
    ----------
    planes : sequence of ndarray of integers, (ny, nx)
        Bits: of the first plane bit 0 is footprint 1; those of each further plane follow. Labels: one plane, whose
        value is the number of the footprint, and 0 or less none.
    labels : bool

    Returns
    -------
    sets : ndarray of int32, (ny, nx)
        Index in `members`.
    members : list of tuple of int
        Numbers of the footprints of each set, rising; of a set of none ().
    """
    index, rows = np.zeros(planes[0].shape, np.int64), list[tuple[int, ...]]([()])
    for plane in planes:
        values, place = _distinct(plane if labels else _unsigned(plane))
        both, index = _distinct(index * len(values) + place)
        rows = [(*rows[k // len(values)], int(values[k % len(values)])) for k in both.tolist()]
    sizes = [8 * plane.dtype.itemsize for plane in planes]
    return index.astype(np.int32), [_label(row[0]) if labels else _bits(row, sizes) for row in rows]


def _label(value: int) -> Members:
    return (value,) if value > 0 else ()


def _bits(words: Sequence[int], sizes: Sequence[int]) -> Members:
    """Numbers of the bits that are set, from 1; each word goes on where the one before it ends."""
    found, first = list[int](), 1
    for word, size in zip(words, sizes, strict=True):
        found += [first + bit for bit in range(size) if word >> bit & 1]
        first += size
    return tuple(found)


def offsets(sets: NDArray[np.int32], members: Sequence[Members], terms: dict[int, float]) -> NDArray[np.float64]:
    """Return the mean of the terms of its footprints at each pixel, float64; 0 where there is none."""
    means = [sum(terms.get(k, 0.0) for k in of) / len(of) if of else 0.0 for of in members]
    return np.array(means, np.float64)[sets]


def _unsigned(plane: NDArray[Any]) -> NDArray[Any]:
    native = np.ascontiguousarray(plane, plane.dtype.newbyteorder("="))
    return native.view(f"u{native.dtype.itemsize}")


def _distinct(plane: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct values, and the index of each pixel's: neighbours are mostly alike, so that only changes are sorted."""
    flat = np.ascontiguousarray(plane).reshape(-1)
    begins = np.concatenate([[True], flat[1:] != flat[:-1]])
    values, of_runs = np.unique(flat[begins], return_inverse=True)
    lengths = np.diff(np.append(np.flatnonzero(begins), flat.size))
    return values, np.repeat(of_runs.reshape(-1).astype(np.int64), lengths).reshape(plane.shape)
