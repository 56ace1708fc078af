"""Masks from DS9 and CRTF region files, drawn a tile at a time.

Needs the package `regions` (the extra ``tiledsky[regions]``).
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from astropy.io.fits import Header
from numpy.typing import NDArray

from tiledsky.errors import InputError
from tiledsky.geometry import Pair, Region
from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.header import valid_keywords
from tiledsky.io.fits.plane import parse_header
from tiledsky.io.plane_reader import SourcePlane

#: Suffixes of region files.
SUFFIXES = (".reg", ".crtf")
_ROWS = 128
#: Largest region file, most regions in it, most corners of one.
MAX_BYTES, MAX_REGIONS, MAX_CORNERS = 16_000_000, 10_000, 5_000
#: What the parser says of looks and comments alone; whatever else it warns of would lose a region.
_HARMLESS = ("duplicate metadata", "invalid and will be ignored", "DS9 meta", "dashed lines")


@dataclass(frozen=True)
class RegionRef:
    """What a worker needs to draw the regions again: plain data; refused once the file has changed.

    Attributes
    ----------
    path : str
    digest : str
        Of the file.
    shape : (int, int)
        Of the image.
    header : str
        FITS header with the WCS of the image, as text; "" for none.
    """

    path: str
    digest: str
    shape: Pair
    header: str

    @property
    def identity(self) -> str:
        """Changes with the file and with the header that places it on the image."""
        return f"{self.digest} {_digest(self.header.encode())}"

    def open(self) -> RegionMask:
        """Read the file again.

        Raises
        ------
        InputError
            It is gone or has changed.
        """
        data = _read(Path(self.path))
        if _digest(data) != self.digest:
            raise InputError(f"{self.path}: the file has changed since it was first opened; start again")
        return RegionMask(_parse(data, self.path, self.header), self.shape)


class RegionMask:
    """A mask plane (uint8, 1 inside) made of regions.

    A pixel is masked if its centre lies in a region and in no region that excludes (``-circle(...)``), wherever that
    stands in the file. Only regions that meet a tile are drawn, and of them only the part in the tile.

    Attributes
    ----------
    shape : (int, int)
    dtype : dtype
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, regions: Iterable[tuple[Any, bool]], shape: Pair) -> None:
        """``regions``: pixel regions of the package `regions`, each with whether it includes."""
        self.shape = shape
        self._regions: list[tuple[Any, bool]] = []
        boxes = []
        for region, include in regions:
            box = region.bounding_box
            self._regions.append((region, include))
            boxes.append((box.iymin, box.iymax, box.ixmin, box.ixmax))
        self._boxes = np.array(boxes, np.int64).reshape(-1, 4)

    def read(self, region: Region) -> NDArray[np.uint8]:
        """Return the pixels of a region within the image."""
        y0, y1, x0, x1 = region
        inside = np.zeros((y1 - y0, x1 - x0), bool)
        outside = np.zeros((y1 - y0, x1 - x0), bool)
        top, bottom, left, right = self._boxes.T
        meeting = (top < y1) & (bottom > y0) & (left < x1) & (right > x0)
        for index in np.flatnonzero(meeting):
            drawn, include = self._regions[index]
            iy0, iy1, ix0, ix1 = self._boxes[index].tolist()
            rows, columns = slice(max(iy0, y0), min(iy1, y1)), slice(max(ix0, x0), min(ix1, x1))
            part = (slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0))
            (inside if include else outside)[part] |= _contains(drawn, rows, columns)
        return (inside & ~outside).astype(np.uint8)

    def close(self) -> None:
        """Do nothing: the file is not open."""


@dataclass(frozen=True)
class RegionPlane(SourcePlane):
    """The regions of a file, as a mask; its identity: the file, and the header that places them on the image."""

    ref: RegionRef

    kind: ClassVar[str] = "regions"

    @property
    def reference(self) -> Any:
        """Where the file is, as plain data."""
        return asdict(self.ref)

    @property
    def file(self) -> str:
        """File of this machine that is read."""
        return self.ref.path

    def change(self, before: SourcePlane) -> str:
        """Say what changed."""
        return f"content of {Path(self.path).name}, or the WCS of the image, changed"

    def _open(self) -> RegionMask:
        return self.ref.open()

    def _again(self) -> RegionPlane:
        return open_region_plane(self.ref.path, shape=self.shape, header=self.ref.header)


def open_region_plane(path: str | os.PathLike[str], *, shape: Pair, header: str) -> RegionPlane:
    """Look at a region file for a plane; arguments and errors as of `open_regions`."""
    ref = open_regions(path, shape=shape, header=header)
    return RegionPlane(ref, shape=shape, dtype=RegionMask.dtype.name, identity=ref.identity)


def _contains(region: Any, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Whether the centres of pixels lie in a region: coordinates of the image, so the same in any tile."""
    from regions import PixCoord

    found = np.empty((rows.stop - rows.start, columns.stop - columns.start), bool)
    for top in range(rows.start, rows.stop, _ROWS):  # what the package needs for a pixel is many times its mask
        bottom = min(top + _ROWS, rows.stop)
        y, x = np.mgrid[top:bottom, columns].astype(float)
        found[top - rows.start : bottom - rows.start] = region.contains(PixCoord(x, y))
    return found


def open_regions(path: str | os.PathLike[str], *, shape: Pair, header: str) -> RegionRef:
    """Look at a region file and check that all of it can be drawn.

    Parameters
    ----------
    path : path
        DS9 (.reg) or CRTF (.crtf); what the file begins with decides, not its suffix.
    shape : (int, int)
        Of the image.
    header : str
        FITS header of the image as text: regions in sky coordinates are placed by its WCS.

    Returns
    -------
    RegionRef

    Raises
    ------
    InputError
        Missing, no region file, a frame or shape that is not known, points and lines (which mask no pixel), sky
        regions for an image without a celestial WCS, nothing that includes; or the package is missing.

    Notes
    -----
    Texts and CRTF annotations (``ann``) are left out. Points on an edge follow the package `regions`. The frame
    "physical" of DS9 is that of the image unless the header says otherwise (LTV, LTM).
    """
    data = _read(Path(path))
    ref = RegionRef(os.path.abspath(path), _digest(data), (int(shape[0]), int(shape[1])), header)
    RegionMask(_parse(data, str(path), header), ref.shape)
    return ref


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(
                f"{path}: more than {MAX_BYTES} bytes, the limit of a region file; give a mask image instead"
            )
        return data
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing region file") from None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _parse(data: bytes, label: str, header: str) -> list[tuple[Any, bool]]:
    """Pixel regions that have an area, each with whether it includes."""
    try:
        from regions import LinePixelRegion, PointPixelRegion, Regions, TextPixelRegion
    except ImportError:
        raise InputError(
            f"{label}: region files need the package regions; install tiledsky[regions], or give a mask image"
        ) from None
    text = data.decode("utf-8", "replace")
    _check_size(text, label)
    kind = "crtf" if text.lstrip().startswith("#CRTF") else "ds9"
    keywords = _keywords(header)
    if kind == "ds9" and not any(key.startswith(("LTV", "LTM")) for key in keywords):
        text = re.sub(r"(?im)(^|;)(\s*)physical(?=\s*(;|#|$))", r"\1\2image", text)
    try:
        # nested: the outer one holds the lock that warning filters need between threads
        with quiet(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = list(Regions.parse(text, format=kind))
    except Exception as error:  # the parsers raise several types for a line they cannot read
        raise InputError(f"{label}: tiledsky cannot read this region file ({_line(error)}); repair that line") from None
    lost = [_line(w.message) for w in said if not any(word in str(w.message) for word in _HARMLESS)]
    if lost:
        raise InputError(f"{label}: a region would be lost: {lost[0]}; save the file in image or fk5 coordinates")
    placed = [_on_pixels(region, keywords, label) for region in found if region.meta.get("type") != "ann"]
    pixel = [region for region in placed if not isinstance(region, TextPixelRegion | None)]
    for region in pixel:
        if isinstance(region, PointPixelRegion | LinePixelRegion):
            name = type(region).__name__.removesuffix("PixelRegion").lower()
            raise InputError(
                f"{label}: a {name} has no area, so it masks no pixel; draw a circle or a box, or remove it"
            )
    chosen = [(_plain(region), bool(region.meta.get("include", True))) for region in pixel if _lies(region, label)]
    if None not in placed and not any(region.meta.get("include", True) for region in pixel):
        raise InputError(
            f"{label}: no region includes pixels, so the file masks nothing; add a region, or leave the file out"
        )
    return chosen


def _check_size(text: str, label: str) -> None:
    """Refuse what would take minutes to read and to draw, before it is read."""
    parts = [part for part in re.split(r"[\n;]", text) if part.strip() and not part.lstrip().startswith("#")]
    if len(parts) > MAX_REGIONS:
        raise InputError(
            f"{label}: {len(parts)} lines, more than the limit of {MAX_REGIONS} regions; give a mask image instead"
        )
    corners = max((len(re.findall(r"[,\s]+", part.partition("#")[0])) for part in parts), default=0) // 2
    if corners > MAX_CORNERS:
        raise InputError(
            f"{label}: a region of about {corners} corners, more than the limit of {MAX_CORNERS}; simplify "
            "it, or give a mask image instead"
        )


def _keywords(header: str) -> Header:
    with quiet():
        return valid_keywords(parse_header(header))


def _on_pixels(region: Any, keywords: Header, label: str) -> Any:
    """Region in pixel coordinates, by the WCS of the image; None for one on the far side of the sky."""
    if not hasattr(region, "to_pixel"):
        return region
    from astropy.wcs import WCS  # a quarter of a second, for the few inputs with regions in sky coordinates

    try:
        with quiet():
            wcs = WCS(keywords)
            if wcs.has_celestial:
                points = getattr(region, "vertices", None)
                x, y = wcs.celestial.world_to_pixel(region.center if points is None else points)
                return region.to_pixel(wcs.celestial) if np.any(np.isfinite(x) & np.isfinite(y)) else None
    except Exception as error:  # astropy raises several types for a WCS that makes no sense
        raise InputError(f"{label}: a sky region cannot be placed ({_line(error)}); use image coordinates") from None
    raise InputError(
        f"{label}: the regions have sky coordinates and the image has no celestial WCS; use image coordinates"
    )


def _lies(region: Any, label: str) -> bool:
    """Whether a region lies somewhere on the plane of the image: one behind the sky's horizon has no coordinates."""
    vertices = getattr(region, "vertices", None)
    points = region.center if vertices is None else vertices
    known = np.isfinite(points.x) & np.isfinite(points.y)
    if not np.any(known):
        return False
    try:
        _ = region.bounding_box
    except (ValueError, OverflowError):
        raise InputError(f"{label}: a region extends beyond the range of the image's WCS; make it smaller") from None
    return True


def _plain(region: Any) -> Any:
    """Region without what it says of itself: some versions of the package turn excluding regions inside out."""
    from regions import RegionMeta

    return region.copy(meta=RegionMeta())


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
