"""Pixels of Zarr arrays: of inputs, decoded by their attributes, and of the planes of stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, TiledSkyError
from tiledsky.geometry import Pair, Region
from tiledsky.io.remote import as_system, is_outage, unreachable
from tiledsky.io.zarr.shards import is_plain, read_region
from tiledsky.io.zarr.values import Values, values_of


class ZarrReader:
    """An array as an image: its values decoded, leading axes of length 1 dropped.

    Parameters
    ----------
    array : zarr.Array
    values : Values, optional
        What its numbers mean; None: they are the pixels.
    dtype : dtype, optional
        Of the pixels, that `Values.output` gave; None: that of the array.
    """

    def __init__(self, array: Any, values: Values | None = None, dtype: np.dtype[Any] | None = None) -> None:
        self.array, self.values = array, values
        self.dtype = np.dtype(array.dtype if dtype is None else dtype)
        self.shape: Pair = (int(array.shape[-2]), int(array.shape[-1]))

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of an array whose numbers are the pixels; those of others would not be true of these."""
        return dict(self.array.attrs) if self.values is None else {}

    def read(self, region: Region) -> NDArray[Any]:
        """Return the pixels of a region; see `read_plane`."""
        if self.values is None:
            return read_plane(self.array, region)
        with _named(self.array, region):
            leading = (0,) * (self.array.ndim - 2)
            return self.values.decode(np.asarray(self.array[(*leading, *region.slices)]), self.dtype)

    def close(self) -> None:
        """Do nothing: no file is open."""


def reader_of(path: str | os.PathLike[str], array: Any, dtype: np.dtype[Any]) -> ZarrReader:
    """Return an array as an image of this type, that `Values.output` gave; errors as of `values_of`."""
    values = values_of(path, array)
    plain = array.ndim == 2 and not values.is_packed and not values.missing
    same = array.dtype.newbyteorder("=") == dtype
    return ZarrReader(array) if plain and same else ZarrReader(array, values, dtype)


def read_plane(array: Any, region: Region) -> NDArray[Any]:
    """Return the pixels of a region of a 2-D Zarr array, as they are stored.

    Raises
    ------
    InputError
        An object is damaged.
    RunError
        The store does not answer.
    """
    with _named(array, region):
        return read_region(array, region) if is_plain(array) else np.asarray(array[region.slices])


@contextmanager
def _named(array: Any, region: Region) -> Iterator[None]:
    """Name array and rows in the error of a damaged chunk: codecs raise whatever they meet first."""
    try:
        yield
    except TiledSkyError:
        raise
    except Exception as error:
        where = getattr(array, "store_path", type(array).__name__)
        if is_outage(error):
            raise unreachable(str(where), error) from as_system(error)
        raise InputError(
            f"{where}: rows {region.y0} to {region.y1 - 1} cannot be read ({type(error).__name__}: {error}); the array "
            "is damaged, write it again"
        ) from error
