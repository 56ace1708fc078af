"""Planes of an input, whatever file they are in: what FITS images, Zarr arrays and region files have in common.

`SourcePlane` says where a plane is and tells it from another: plain data, which a run keeps and its workers open. What
they open is a `PlaneReader`. Neither knows a kind of file; each kind has a module of its own, and
`tiledsky.io.source` knows them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tiledsky.containers import float_dtype
from tiledsky.errors import InputError
from tiledsky.geometry import Pair, Region
from tiledsky.planes import roots
from tiledsky.recipe import FOOTPRINTS

#: Plane name to the role that chooses its HDU and its dtype.
ROLES = {
    "science": "science",
    "weight": "weight",
    "error": "error",
    "dq": "dq",
    "coverage": "coverage",
    "user_mask": "mask",
    "source_mask": "mask",
    **dict.fromkeys(FOOTPRINTS, "footprints"),
}
#: Kinds of planes: keys of `SourcePlane.to_json`, of which one is set.
KINDS = ("fits", "array", "regions")
#: Attribute of a group with the FITS header of its science plane, as text.
HEADER = "fits_header"
#: Attribute of an image with the number that means no data in it.
NODATA = "tiledsky_nodata"
#: Attribute (1) of an array whose bits are those of a run's mask plane.
MASK_BITS = "tiledsky_mask"


class PlaneReader(Protocol):
    """An open plane."""

    @property
    def shape(self) -> Pair:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""

    def read(self, region: Region) -> NDArray[Any]:
        """Return the pixels of a region within the plane, an array of its own.

        Raises
        ------
        InputError
            They are damaged, or no longer there.
        RunError
            The store does not answer.
        """

    def close(self) -> None:
        """Close the file, if there is one."""


@dataclass(frozen=True, kw_only=True)
class SourcePlane(ABC):
    """One plane of an input: where it is, what pixels it has, what tells it from another.

    Attributes
    ----------
    shape : (int, int)
    dtype : str
        As stored in the run: native byte order.
    identity : str
        Changes when the file does.
    url : str
        Where the file was copied from, if it was.
    nodata : float or None
        Of the science plane: the number that means no data.
    is_variance : bool
        Of the error plane: what is stored are variances, of which the plane is the square root.
    """

    shape: Pair
    dtype: str
    identity: str
    url: str = ""
    nodata: float | None = None
    is_variance: bool = False

    #: One of `KINDS`.
    kind: ClassVar[str]
    #: Whether a run copies the plane into its store; else it is read in place.
    is_copied: ClassVar[bool] = False

    @property
    @abstractmethod
    def reference(self) -> Any:
        """Where the plane is, as plain data."""

    @property
    @abstractmethod
    def file(self) -> str:
        """File or folder of this machine, or address, that is read."""

    @property
    def path(self) -> str:
        """File, folder or address that was named."""
        return self.url or self.file

    @property
    def chunk_pixels(self) -> int:
        """Pixels that are decoded together, by the metadata of the file; 0: those of any region alone."""
        return 0

    @property
    def is_tiled(self) -> bool:
        """Whether the file is a tile-compressed FITS image."""
        return False

    @abstractmethod
    def change(self, before: SourcePlane) -> str:
        """Say what of the file changed since it was ``before``, of the same shape and type."""

    @abstractmethod
    def _open(self) -> PlaneReader: ...

    @abstractmethod
    def _again(self) -> Self: ...

    def open(self) -> PlaneReader:
        """Open for reading.

        Raises
        ------
        InputError
            The file is gone, or has changed.
        """
        return Roots(self._open()) if self.is_variance else self._open()

    def again(self) -> SourcePlane:
        """Look at the file anew: another identity if it changed since.

        Raises
        ------
        InputError
            It is gone, or no longer what can be read.
        """
        try:
            now = self._again()
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} can no longer be read ({error}); restore it, then run again") from None
        return now.as_error if self.is_variance else now

    @property
    def as_error(self) -> Self:
        """This plane of variances as one of standard deviations."""
        dtype = float_dtype(self.dtype).name
        return replace(self, dtype=dtype, identity=f"variance {self.identity}", is_variance=True)

    def to_json(self) -> dict[str, object]:
        """Return the plane as plain data; `tiledsky.io.source.plane_from_json` is the inverse."""
        facts = {name: getattr(self, name) for name in ("shape", "dtype", "identity", "url", "nodata", "is_variance")}
        return {**dict.fromkeys(KINDS), **facts, self.kind: self.reference}


class Roots:
    """Square roots of an open plane; NaN of what is below 0."""

    def __init__(self, variances: PlaneReader) -> None:
        self.variances, self.shape, self.dtype = variances, variances.shape, float_dtype(variances.dtype)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the pixels of a region."""
        return roots(self.variances.read(region))

    def close(self) -> None:
        """Close the file, if there is one."""
        self.variances.close()


class PlaneEntry(NamedTuple):
    """A plane, the header that came with it, planes beside it in its group, whether its bits are those of a mask."""

    plane: SourcePlane
    header: str = ""
    siblings: Mapping[str, SourcePlane] = MappingProxyType({})
    mask_bits: bool = False
