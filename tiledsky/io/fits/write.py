"""Write 2-D FITS images of any size, a block at a time."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io.fits import Card, Header
from numpy.typing import DTypeLike, NDArray

from tiledsky.errors import ParameterError, RunError
from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.header import describing_cards
from tiledsky.io.fits.scan import BLOCK
from tiledsky.io.targets import check_fits_name, check_target_file

_ROW_BLOCK = 16 << 20
# numpy type -> BITPIX, and the BZERO that turns the signed integers of FITS into it
_STORED: dict[str, tuple[int, int]] = {
    "bool": (8, 0),
    "uint8": (8, 0),
    "int8": (8, -128),
    "int16": (16, 0),
    "uint16": (16, 1 << 15),
    "int32": (32, 0),
    "uint32": (32, 1 << 31),
    "int64": (64, 0),
    "float32": (-32, 0),
    "float64": (-64, 0),
}


@dataclass(frozen=True)
class Plane:
    """One image to write.

    Attributes
    ----------
    name : str
        EXTNAME.
    shape : tuple of int
        (ny, nx).
    dtype : numpy dtype
        bool (stored as uint8), uint8, int8, int16, uint16, int32, uint32, int64, float32 or float64.
    rows : callable, optional
        ``rows(y0, y1)`` returns rows y0..y1-1 as an array of shape (y1 - y0, nx) and that dtype. Called once for each
        block, from the first row to the last. None: for `new_fits`, whose pixels are put.
    header : astropy.io.fits.Header, optional
        Cards of this plane alone, in place of those of the same name in the common header.
    bunit : str, optional
        Unit. By default that of `header`, else for float planes that of the common header, else none.
    block_rows : int, optional
        Rows a call, for sources that are stored in chunks; default as many as make 16 MB.
    """

    name: str
    shape: tuple[int, int]
    dtype: DTypeLike
    rows: Callable[[int, int], NDArray[Any]] | None = None
    header: Header | None = None
    bunit: str | None = None
    block_rows: int | None = None

    @property
    def nbytes(self) -> int:
        """Size of the data unit with its padding."""
        return -(-self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize // BLOCK) * BLOCK


def write_fits(
    path: str | os.PathLike[str],
    planes: Sequence[Plane],
    *,
    header: Header | None = None,
    history: Iterable[str] = (),
    single: bool = False,
    overwrite: bool = False,
    after: Callable[[], bytes] | None = None,
) -> None:
    """Write planes to a new FITS file: a primary HDU without data, then one image extension for each plane.

    The file appears under its name only when it is whole and on disk (temporary name in the same directory, fsync,
    rename).

    Parameters
    ----------
    path : path
        Ends in .fits, .fit or .fts: the file is not compressed.
    planes : sequence of Plane
        At least one, with different names.
    header : astropy.io.fits.Header, optional
        Of the science image. The primary gets all its cards that do not describe the storage, each extension the same
        without COMMENT and HISTORY, so that WCS and instrument stay with every plane. Structural, scaling, compression
        and checksum keywords, invalid cards, and distortions kept as arrays elsewhere are left out; a HISTORY line
        says so for the last two.
    history : iterable of str
        HISTORY lines for the primary HDU.
    single : bool
        Put the only plane into the primary HDU.
    overwrite : bool
        Replace an existing file.
    after : callable, optional
        Called when the planes are written; returns encoded extensions that follow them
        (`tiledsky.io.fits.table.table_bytes`).

    Raises
    ------
    ParameterError
        The file exists, the directory does not, planes that FITS cannot hold.
    RunError
        No room or permission, or `rows` returned something else than it declared.

    Notes
    -----
    Memory: a block of rows as the source gives it and once more in big-endian order.
    """
    options = {"header": header, "history": history, "single": single, "overwrite": overwrite}
    with new_fits(path, planes, after=after, **options) as images:  # type: ignore[arg-type]
        for plane, image in zip(planes, images, strict=True):
            _put_rows(plane, image)


class NewImage:
    """Pixels of one image of a file that is being written: put in any order, by any thread."""

    def __init__(self, plane: Plane, descriptor: int, offset: int) -> None:
        self._plane, self._descriptor, self._offset = plane, descriptor, offset
        self._lock, self._missing = threading.Lock(), plane.shape[0] * plane.shape[1]

    def put(self, pixels: NDArray[Any], y0: int, x0: int = 0) -> None:
        """Write pixels of the plane's dtype, the first of them at row ``y0``, column ``x0``; each pixel once.

        Whole rows lie one after the other and are written in one go.
        """
        nx, (rows, columns) = self._plane.shape[1], pixels.shape
        if pixels.dtype.newbyteorder("=") != np.dtype(self._plane.dtype).newbyteorder("="):
            raise RunError(f"plane {self._plane.name}: {pixels.dtype} pixels were put, declared were another type")
        stored = _big_endian(pixels)
        at = self._offset + (y0 * nx + x0) * pixels.dtype.itemsize
        if columns == nx:
            _write_at(self._descriptor, stored.data, at)
        else:
            for row in stored.reshape(rows, -1):
                _write_at(self._descriptor, row.data, at)
                at += nx * pixels.dtype.itemsize
        if columns == nx and hasattr(os, "posix_fadvise"):
            # Linux begins at once to write out what it may forget, so that the sync at the end finds little to do
            os.posix_fadvise(self._descriptor, at, stored.nbytes, os.POSIX_FADV_DONTNEED)
        with self._lock:
            self._missing -= pixels.size

    def check(self) -> None:
        """Refuse an image with pixels that were never put, which would read as 0."""
        if self._missing:
            raise RunError(f"plane {self._plane.name}: {self._missing} pixels were not written; put each of them once")


@contextmanager
def new_fits(
    path: str | os.PathLike[str],
    planes: Sequence[Plane],
    *,
    header: Header | None = None,
    history: Iterable[str] = (),
    single: bool = False,
    overwrite: bool = False,
    after: Callable[[], bytes] | None = None,
) -> Iterator[list[NewImage]]:
    """Make a FITS file whose pixels come in any order and from any thread.

    Parameters, errors and what happens to the file as of `write_fits`.

    Yields
    ------
    list of NewImage
        One a plane. All of their pixels must be put, and nothing may put any more, when the block ends.
    """
    target = Path(path)
    check_target(target, overwrite=overwrite)
    _check(planes, single=single)
    encoded = _headers(planes, header, history, single=single)
    needed = sum(map(len, encoded)) + sum(plane.nbytes for plane in planes)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise RunError(f"{target}: needs {needed} bytes and its disk has {free} free; make room or write elsewhere")
    # Not tempfile: its files are readable by their owner only, and stay so when renamed.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        with open(temporary, "xb", buffering=0) as file:
            images, at = [], 0
            os.ftruncate(file.fileno(), needed)  # the padding reads as zeros
            if not single:
                at += _write_at(file.fileno(), encoded.pop(0), at)
            for plane, head in zip(planes, encoded, strict=True):
                at += _write_at(file.fileno(), head, at)
                images.append(NewImage(plane, file.fileno(), at))
                at += plane.nbytes
            yield images
            for image in images:
                image.check()
            if after is not None:
                _write_at(file.fileno(), after(), at)
            os.fsync(file.fileno())
        check_target_file(target)
        if not overwrite and target.exists():
            raise ParameterError(f"{target}: appeared while it was written; remove it, or give --overwrite")
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except OSError as exc:
        raise RunError(f"{target}: cannot be written ({exc.strerror or exc}); check disk and permissions") from exc
    finally:
        temporary.unlink(missing_ok=True)


def _write_at(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of some bytes at a position and return how many."""
    view, at = memoryview(data).cast("B"), offset
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written
    return at - offset


def _headers(planes: Sequence[Plane], header: Header | None, history: Iterable[str], *, single: bool) -> list[bytes]:
    """Headers of all HDUs, as bytes: the primary's alone first, unless the only plane is in it."""
    common = Header() if header is None else header
    cards, dropped = describing_cards(common)
    heads = [_plane_header(plane, common, primary=single) for plane in planes]
    if single:
        _append(heads[0], [c for c in cards if c.keyword in ("COMMENT", "HISTORY")])
    else:
        heads.insert(0, Header([("SIMPLE", True, "conforms to the FITS standard"), ("BITPIX", 8), ("NAXIS", 0)]))
        heads[0].append(("EXTEND", True, "extensions follow"))
        _append(heads[0], cards)
    for line in (*history, *(f"left out on writing: {what}" for what in dropped)):
        for part in line.splitlines():
            heads[0].add_history(part.encode("ascii", "replace").decode().expandtabs())
    return [_encode(head) for head in heads]


def check_target(target: Path, *, overwrite: bool, others: tuple[str, ...] = ()) -> None:
    """Refuse a name under which no FITS file can be written, or with which one would be lost.

    ``others``: ends of names that may be written too.

    Raises
    ------
    ParameterError
    """
    check_fits_name(target, others=others)
    if not target.parent.is_dir():
        raise ParameterError(f"{target}: its directory does not exist, so nothing can be written; create it first")
    if target.is_dir():
        raise ParameterError(f"{target}: is a directory; name a file in it")
    check_target_file(target)
    if target.exists() and not overwrite:
        raise ParameterError(f"{target}: exists and would be lost; name another file, or give --overwrite")


def _check(planes: Sequence[Plane], *, single: bool) -> None:
    if not planes or (single and len(planes) != 1):
        raise ParameterError(f"{len(planes)} planes with single={single}; give one plane for single, at least one else")
    names = [plane.name.upper() for plane in planes]
    if len(set(names)) < len(names):
        raise ParameterError(f"plane names {names} repeat, so an extension could not be found by name; rename one")
    for plane in planes:
        if not (plane.name.isascii() and plane.name.isprintable() and 0 < len(plane.name.strip()) <= 60):
            raise ParameterError(f"plane name {plane.name!r} cannot be an EXTNAME; give 1 to 60 ASCII characters")
        if np.dtype(plane.dtype).name not in _STORED:
            raise ParameterError(f"plane {plane.name}: FITS has no type for {plane.dtype}; use one of {tuple(_STORED)}")
        if len(plane.shape) != 2 or min(plane.shape) < 1:
            raise ParameterError(f"plane {plane.name}: shape {plane.shape} is not a 2-D image; give (ny, nx) >= (1, 1)")
        if plane.block_rows is not None and plane.block_rows < 1:
            raise ParameterError(f"plane {plane.name}: block_rows {plane.block_rows} writes nothing; give at least 1")


def _plane_header(plane: Plane, common: Header, *, primary: bool) -> Header:
    """Build the header of one plane: structure first, then what the common and its own header say."""
    dtype = np.dtype(plane.dtype)
    bitpix, bzero = _STORED[dtype.name]
    ny, nx = plane.shape
    # One list: Header.extend would strip structural keywords
    structure: list[tuple[Any, ...]] = [
        ("SIMPLE", True, "conforms to the FITS standard") if primary else ("XTENSION", "IMAGE", "image extension"),
        ("BITPIX", bitpix),
        ("NAXIS", 2),
        ("NAXIS1", nx),
        ("NAXIS2", ny),
        *([("EXTEND", True)] if primary else [("PCOUNT", 0), ("GCOUNT", 1)]),
        ("EXTNAME", plane.name),
        *([("BSCALE", 1), ("BZERO", bzero, f"{dtype.name} by convention")] if bzero else []),
    ]
    head = Header(structure)
    own = [] if plane.header is None else describing_cards(plane.header, commentary=primary)[0]
    replaced = {card.keyword for card in own if card.keyword not in ("COMMENT", "HISTORY")}
    if plane.bunit is not None or dtype.kind != "f":
        replaced.add("BUNIT")  # the common unit is that of the science pixels, flags and counts have another
    if plane.bunit is not None:
        own = [card for card in own if card.keyword != "BUNIT"]
        head.append(("BUNIT", plane.bunit))
    cards, _ = describing_cards(common, commentary=False)
    _append(head, [card for card in cards if card.keyword not in replaced] + own)
    return head


def _append(head: Header, cards: Iterable[Card]) -> None:
    for card in cards:
        head.append(card, end=True)


def _encode(head: Header) -> bytes:
    with quiet():
        return head.tostring(sep="", endcard=True, padding=True).encode("ascii")


def _put_rows(plane: Plane, image: NewImage) -> None:
    assert plane.rows is not None  # of planes that are put alone it is
    dtype = np.dtype(plane.dtype)
    ny, nx = plane.shape
    step = plane.block_rows or max(1, _ROW_BLOCK // (nx * dtype.itemsize))
    for y0 in range(0, ny, step):
        y1 = min(ny, y0 + step)
        block = np.asarray(plane.rows(y0, y1))
        if block.shape != (y1 - y0, nx) or block.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            raise RunError(
                f"plane {plane.name}: rows({y0}, {y1}) returned {block.dtype} {block.shape}, declared were {dtype} "
                f"{(y1 - y0, nx)}; the file would be wrong, correct the plane's dtype or shape"
            )
        image.put(block, y0)


def _big_endian(block: NDArray[Any]) -> NDArray[Any]:
    """Return the bytes that FITS stores for `block`, as a contiguous uint8 array."""
    if block.dtype.kind == "b":
        stored = block.astype(np.uint8)
    elif _STORED[block.dtype.name][1]:  # the unsigned convention: flip the sign bit
        bits = 8 * block.dtype.itemsize
        stored = block.astype(f"u{block.dtype.itemsize}") ^ np.array(1 << (bits - 1), f"u{block.dtype.itemsize}")
    else:
        stored = block
    big = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder(">"))
    return big.reshape(-1).view(np.uint8)


def _sync_directory(directory: Path) -> None:
    """Put the new name on disk too; not every system lets a directory be opened."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it; the data are safe already
        pass
    finally:
        os.close(handle)
