"""Read 2-D FITS images of any size, a region at a time.

Uncompressed images are read with plain file reads at the pixels' offsets, never a memory map (a file truncated under a
map kills the worker with SIGBUS). Tile-compressed images go through astropy's section reader. Whole-file compression
(.gz, .bz2) is unpacked once to a scratch file.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits as astropy_fits
from numpy.typing import NDArray

from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region
from tiledsky.io.address import path_text
from tiledsky.io.fits.cards import label_value, quiet
from tiledsky.io.fits.checksum import verify_checksums
from tiledsky.io.fits.compressed import TileTable
from tiledsky.io.fits.header import merge_primary
from tiledsky.io.fits.plane import plane_header
from tiledsky.io.fits.scale import scaling_of
from tiledsky.io.fits.scan import HduInfo, compression_of, inflate, scan_file
from tiledsky.io.fits.select import ROLE_NAMES, Role, choose
from tiledsky.io.fits.write import NewImage, Plane, check_target, new_fits, write_fits
from tiledsky.scratch import drop

__all__ = [
    "FitsImage",
    "FitsRef",
    "NewImage",
    "Plane",
    "Role",
    "check_target",
    "new_fits",
    "open_image",
    "split_hdu",
    "write_fits",
]

FITS_ENDINGS = (".fits", ".fit", ".fts", ".fz", ".gz", ".bz2")
_PLAIN_BLOCK = 4 << 20  # bytes converted at once: what a read needs beside its result
_TILED_BLOCK = 16 << 20


def split_hdu(name: str | os.PathLike[str]) -> tuple[str, int | str | None]:
    """Split ``file.fits:SCI``, ``file.fits:SCI,2`` or ``file.fits:2`` into path and HDU.

    A path that exists as a whole wins, and so does a colon that belongs to a URL or to the path of a directory.

    Returns
    -------
    path : str
    hdu : int, str or None
        None if no HDU is named.

    Raises
    ------
    InputError
        No path, or nothing follows the colon.
    """
    text = path_text(name)
    path, colon, hdu = text.rpartition(":")
    if not colon or not path or "/" in hdu or "\\" in hdu or os.path.exists(text):
        return text, None
    if not os.path.exists(path) and not path.lower().endswith(FITS_ENDINGS):
        return text, None
    if not hdu.strip():
        raise InputError(f"{text}: no HDU follows the colon; write file.fits:NAME, file.fits:NUMBER or no colon")
    return path, int(hdu) if hdu.strip().isdecimal() else hdu.strip()


@dataclass(frozen=True)
class FitsRef:
    """What a worker needs to open an image again: small, picklable, and refused once the file has changed.

    Attributes
    ----------
    path : str
    hdu : int
    role : str
    size, mtime_ns : int
        Of the file when it was first opened.
    unpacked : str or None
        Scratch file with the contents of a .gz or .bz2; used while it exists, otherwise the file is unpacked again.
    scratch : str or None
    layer : int
        Of several images that lie one upon the other, which one is meant (role footprints alone).
    """

    path: str
    hdu: int
    role: Role
    size: int
    mtime_ns: int
    unpacked: str | None = None
    scratch: str | None = None
    layer: int = 0

    def open(self) -> FitsImage:
        """Open the image again.

        Raises
        ------
        InputError
            The file is gone or is no longer the one that was opened first.
        """
        return _open(Path(self.path), self.hdu, self.role, None if self.scratch is None else Path(self.scratch), self)


class FitsImage:
    """One 2-D image of a FITS file, read by regions; a context manager. Made by `open_image`.

    Attributes
    ----------
    path : str
    hdu : int
        Index of the HDU.
    name : str
        EXTNAME, or DES_EXT where EXTNAME says nothing, or "".
    shape : tuple of int
        (ny, nx).
    dtype : numpy.dtype
        Of what `read` returns, native byte order. float32 for images stored in 8 or 16 bits or as float32; float64 for
        float64, 32 and 64 bits. Integer roles (dq, coverage, mask) keep unscaled integers as they are, unsigned by
        convention.
    header : astropy.io.fits.Header
        The image's header, with the keywords that only the primary header has after its own, as `plane_header` makes
        it: every card can be read, world coordinates are of two axes.
    bunit : str or None
        Unit of the pixels, as written.
    """

    def __init__(self, info: HduInfo, primary: astropy_fits.Header, ref: FitsRef, *, owns_unpacked: bool) -> None:
        self.path, self.hdu, self.name = ref.path, info.index, info.name or info.ext
        self.shape: tuple[int, int] = (info.shape[-2], info.shape[-1])
        self._info, self._ref = info, ref
        self._label = f"{ref.path}, HDU {info}"
        self._lock = threading.Lock()  # file position and astropy's file object are shared between threads
        self._hdus: astropy_fits.HDUList | None = None
        self._tiles: TileTable | None = None
        self._file = open(ref.unpacked or ref.path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
        weakref.finalize(self, self._file.close)
        # finalize also runs when the object or the interpreter goes, so a forgotten close leaves no scratch file
        self._remove = weakref.finalize(self, drop, Path(ref.unpacked)) if owns_unpacked and ref.unpacked else None
        try:
            header = self._open_compressed() if info.kind == "compressed" else info.header
            self._scaling = scaling_of(info, header, ref.role, self._label)
            #: Images that lie one upon the other; of a context of bits what is read has the bits of all.
            self.n_layers = 1 if info.is_plane else int(info.shape[-3])
            self._layers = range(ref.layer, ref.layer + 1) if ref.role == "footprints" else range(self.n_layers)
            self.dtype = self._scaling.output
            self.header = plane_header(merge_primary(header, primary if info.index else astropy_fits.Header()))
            self.bunit = label_value(self.header, "BUNIT") or None
        except BaseException:
            self.close()
            raise

    def _open_compressed(self) -> astropy_fits.Header:
        self._tiles = TileTable(self._file, self._info, self._label)
        with quiet():
            self._hdus = astropy_fits.open(self._file.name, memmap=False, do_not_scale_image_data=True)
            hdu = self._hdus[self.hdu]
            if not isinstance(hdu, astropy_fits.CompImageHDU) or hdu.shape != self._info.shape:
                raise InputError(f"{self._label}: astropy finds no such compressed image; fetch the file again")
            return hdu.header

    @property
    def tiled(self) -> bool:
        """Whether the image is tile-compressed."""
        return self._tiles is not None

    def read(self, region: Region) -> NDArray[Any]:
        """Read the pixels of a region.

        Returns
        -------
        pixels : ndarray, of the region's shape, `dtype`
            C-contiguous, native byte order. BSCALE and BZERO applied; BLANK is NaN in float results and left as it is
            in integer ones.

        Raises
        ------
        ParameterError
            The region is not within the image.
        InputError
            The file has shrunk since it was opened, or its compressed data are damaged.

        Notes
        -----
        Memory: the result plus 12 MB at most; of a tile-compressed image, plus the compression tiles that overlap the
        region's columns, 16 MB of them or one row of tiles at a time.
        """
        (y0, y1, x0, x1), (ny, nx) = region, self.shape
        if not (0 <= y0 <= y1 <= ny and 0 <= x0 <= x1 <= nx):
            raise ParameterError(
                f"region [{y0}:{y1}, {x0}:{x1}] is not within the {ny} x {nx} image {self.path}; cut it to the image"
            )
        pixels = np.empty(region.shape, self.dtype)
        if pixels.size == 0:
            return pixels
        fetch = self._fetch_plain if self._hdus is None else self._fetch_compressed
        align, step = self._block_rows(x1 - x0)
        top = y0
        while top < y1:
            bottom = min(y1, (top // align) * align + step)  # never decode one row of tiles twice
            block = pixels[top - y0 : bottom - y0]
            block[...] = self._scaling.apply(fetch(top, bottom, x0, x1, self._layers[0]))
            for layer in self._layers[1:]:
                block |= self._scaling.apply(fetch(top, bottom, x0, x1, layer))
            top = bottom
        return pixels

    def _block_rows(self, width: int) -> tuple[int, int]:
        """Return the row alignment of blocks and their height."""
        size = width * self._scaling.stored.itemsize
        if self._hdus is None:
            return 1, max(1, _PLAIN_BLOCK // size)
        tile = int(self._hdus[self.hdu].tile_shape[-2])
        return tile, tile * max(1, _TILED_BLOCK // (size * tile))

    def _fetch_plain(self, y0: int, y1: int, x0: int, x1: int, layer: int) -> NDArray[Any]:
        stored, (ny, nx) = self._scaling.stored, self.shape
        raw = np.empty((y1 - y0, x1 - x0), stored)
        pixels = raw.reshape(-1).view(np.uint8).data  # no copy: a fresh array is contiguous
        at, step = self._info.data_offset + ((layer * ny + y0) * nx + x0) * stored.itemsize, nx * stored.itemsize
        size = len(pixels) if x1 - x0 == nx else (x1 - x0) * stored.itemsize  # whole rows lie one after the other
        with self._lock:
            descriptor = self._file.fileno()
            for start in range(0, len(pixels), size):
                view, offset = pixels[start : start + size], at
                while len(view):
                    try:
                        got = os.preadv(descriptor, [view], offset)
                    except OSError as exc:
                        raise InputError(f"{self._label}: cannot be read ({exc.strerror}); fetch it again") from exc
                    if not got:
                        raise InputError(
                            f"{self._label}: the file ended while it was read; it has changed, start again"
                        )
                    view, offset = view[got:], offset + got
                at += step
        return raw

    def _fetch_compressed(self, y0: int, y1: int, x0: int, x1: int, layer: int) -> NDArray[Any]:
        assert self._hdus is not None
        assert self._tiles is not None
        leading = (*(0,) * (len(self._info.shape) - 3), layer)[: len(self._info.shape) - 2]
        try:
            with self._lock, np.errstate(all="ignore"):
                self._tiles.check_streams(y0, y1, x0, x1, layer)
                return np.asarray(self._hdus[self.hdu].section[(*leading, slice(y0, y1), slice(x0, x1))])
        except InputError:
            raise
        except Exception as exc:  # the decoders raise whatever their C code or zlib meets first
            raise InputError(
                f"{self._label}: rows {y0} to {y1 - 1} cannot be unpacked ({type(exc).__name__}: {_line(exc)}); "
                "the file is damaged, fetch it again"
            ) from exc

    def reopen_token(self) -> FitsRef:
        """Return a picklable reference with which another process opens this image: ``token.open()``."""
        return self._ref

    def close(self) -> None:
        """Close the file and remove the scratch copy, if this object made it."""
        if self._hdus is not None:
            self._hdus.close()
        self._file.close()
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FitsImage({self._label}, {self.dtype})"


def open_image(
    path: str | os.PathLike[str],
    *,
    hdu: int | str | None = None,
    role: Role = "science",
    scratch: str | os.PathLike[str] | None = None,
    checksum: bool = True,
) -> FitsImage:
    """Open one 2-D image of a FITS file, plain, tile-compressed (.fz), gzip or bzip2.

    Parameters
    ----------
    path : path
        The file alone; `split_hdu` takes an HDU off.
    hdu : int or str, optional
        Index, EXTNAME, "EXTNAME,EXTVER" or DES_EXT, in any case. By default the only 2-D image, else the only one whose
        name fits the role (science: SCI, SCIENCE, IMAGE, IMAGES; weight: WHT, WEIGHT, WEIGHTS; error: ERR, ERROR, RMS,
        SIGMA; variance: VAR, VARIANCE; dq and mask: DQ, MASK, FLAGS; coverage: COV, COVERAGE, CTX, CON, EXP, EXPOSURE,
        NEXP). Leading axes of length 1 are dropped. A coverage may be several images of integers, a bit for each
        exposure (CON, CTX): it is read as one, with the bits of all; footprints (CTX, CON) are read one by one.
    role : {"science", "weight", "error", "variance", "dq", "coverage", "mask", "footprints"}
        dq and footprints must be integers; a mask or coverage may be; the others are read as floats.
    scratch : path, optional
        Directory for unpacking .gz and .bz2; default the system's.
    checksum : bool
        Read the HDU once and compare it with the DATASUM and CHECKSUM that it carries, if any; so is the header of a
        primary without pixels. `FitsRef.open` never does it again.

    Returns
    -------
    image : FitsImage

    Raises
    ------
    InputError
        Missing, not FITS, truncated, damaged, not what its checksums say, without a 2-D image, or with several and
        nothing to choose by.
    """
    if role not in ROLE_NAMES:
        raise ParameterError(f"role {role!r} does not decide the pixel type; give one of {tuple(ROLE_NAMES)}")
    return _open(Path(path), hdu, role, None if scratch is None else Path(scratch), None, checksum=checksum)


def image_hdus(path: str | os.PathLike[str]) -> list[int]:
    """Indices of the HDUs of a FITS file that are 2-D images; errors as of `open_image`."""
    try:
        compression = compression_of(Path(path))
        if compression is None:
            hdus = scan_file(Path(path))
        else:
            copy, hdus = inflate(Path(path), compression, None)
            drop(copy)
    except InputError:
        raise
    except Exception as exc:
        raise _broken(path, exc) from exc
    return [info.index for info in hdus if info.is_plane]


def _broken(path: str | os.PathLike[str], exc: Exception) -> InputError:
    """A damaged header can fail anywhere in astropy; the file is at fault, whatever the exception's type."""
    return InputError(f"{path}: cannot be opened as FITS ({type(exc).__name__}: {_line(exc)}); repair it")


def _open(
    path: Path, hdu: int | str | None, role: Role, scratch: Path | None, ref: FitsRef | None, *, checksum: bool = False
) -> FitsImage:
    unpacked: str | None = None
    owned = False
    try:
        compression = compression_of(path)
        stat = path.stat()
        if ref is not None and (ref.size, ref.mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            raise InputError(f"{path}: the file has changed since it was first opened; start again from the new file")
        if compression is None:
            hdus = scan_file(path)
        elif ref is not None and ref.unpacked is not None and os.path.exists(ref.unpacked):
            unpacked, hdus = ref.unpacked, scan_file(Path(ref.unpacked))
        else:
            copy, hdus = inflate(path, compression, scratch)
            unpacked, owned = str(copy), True
        info = choose(hdus, hdu, role, str(path))
        if checksum:
            _verify(path if unpacked is None else Path(unpacked), str(path), hdus, info)
        folder = None if scratch is None else os.path.abspath(scratch)
        # absolute: a worker may have another working directory
        whose = os.path.abspath(path), info.index, role, stat.st_size, stat.st_mtime_ns
        token = FitsRef(*whose, unpacked, folder, 0 if ref is None else ref.layer)
        return FitsImage(info, hdus[0].header, token, owns_unpacked=owned)
    except BaseException as exc:
        if owned and unpacked:
            drop(Path(unpacked))
        if isinstance(exc, InputError) or not isinstance(exc, Exception):
            raise
        raise _broken(path, exc) from exc


def _verify(path: Path, label: str, hdus: list[HduInfo], info: HduInfo) -> None:
    """Check the sums of what is read: the HDU, and a primary header that goes with it."""
    with open(path, "rb", buffering=0) as file:
        if info.index and not hdus[0].data_bytes:
            verify_checksums(file, hdus[0], f"{label}, HDU {hdus[0]}")
        verify_checksums(file, info, f"{label}, HDU {info}")


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200]
