"""The structure of a FITS file: which HDUs it declares, where their bytes are, and whether they are all there.

The scan reads headers only and checks every declared size against the file before any pixel is read: astropy gives the
pixels of a truncated file with no more than a warning. It runs forward only, so the same code also follows the output
of a decompressor, and a small .gz that unpacks to far more than its headers declare is stopped at the declared size.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import shutil
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from astropy.io.fits import Header

from tiledsky.errors import InputError
from tiledsky.io.fits.cards import integer, label_value, parse_cards, text_value, value_of
from tiledsky.scratch import drop, scratch_file

BLOCK = 2880
_MAX_HEADER = 2_000 * BLOCK  # 5.8 MB, 72,000 cards: beyond this the END card is lost, not far away
_MAX_HDUS = 10_000
#: Zeros that may follow the last HDU: records of tapes, room that was reserved; not all that a small .gz can unpack to.
_MAX_TAIL = 256 << 20
_COPY = 1 << 20
_BITPIX = (8, 16, 32, 64, -32, -64)


@dataclass(frozen=True)
class HduInfo:
    """One HDU as its header declares it.

    Attributes
    ----------
    index : int
        Position in the file, 0 = primary.
    name, ext : str
        EXTNAME (empty if absent or the packer's default) and DES_EXT, upper case.
    version : int
        EXTVER, default 1.
    kind : {"image", "compressed", "other"}
        "compressed" is a tile-compressed image in a binary table; "other" holds no image.
    shape : tuple of int
        Image shape, slowest axis first; empty when there is no image.
    bitpix : int
        BITPIX of the image (ZBITPIX when compressed).
    header_offset : int
        Position in bytes of the header, in the uncompressed file.
    data_offset, data_bytes : int
        Position and size in bytes of the data unit, without its padding.
    header : astropy.io.fits.Header
        The header as stored (of the binary table, when compressed).
    """

    index: int
    name: str
    ext: str
    version: int
    kind: Literal["image", "compressed", "other"]
    shape: tuple[int, ...]
    bitpix: int
    header_offset: int
    data_offset: int
    data_bytes: int
    header: Header = field(repr=False, compare=False)

    @property
    def is_plane(self) -> bool:
        """True for a 2-D image with pixels; leading axes of length 1 do not count."""
        return len(self.shape) >= 2 and 0 not in self.shape and all(n == 1 for n in self.shape[:-2])

    @property
    def is_bit_stack(self) -> bool:
        """True for several 2-D images of integers: a context of drizzled exposures, a bit each, 32 to an image."""
        return len(self.shape) >= 3 and self.bitpix > 0 and 0 not in self.shape and math.prod(self.shape[:-3]) == 1

    def __str__(self) -> str:
        names = "/".join(n for n in (self.name, self.ext) if n) or ("PRIMARY" if self.index == 0 else "unnamed")
        version = f",{self.version}" if self.version != 1 else ""
        size = " x ".join(map(str, self.shape)) if self.shape else "no image"
        return f"{self.index} {names}{version} ({size})"


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Source(Protocol):
    position: int

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; fewer only at the end."""

    def skip(self, size: int) -> int:
        """Pass over `size` bytes and return how many of them exist."""

    def look(self, size: int) -> bytes:
        """Return up to `size` bytes of what is no part of the file's HDUs; fewer only at the end."""


class _PlainSource:
    """A file on disk: data units are passed over without being read."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.position = file, size, 0

    def read(self, size: int) -> bytes:
        self.file.seek(self.position)
        data = self.file.read(size)
        self.position += len(data)
        return data

    look = read

    def skip(self, size: int) -> int:
        step = min(size, self.size - self.position)
        self.position += step
        return step


class _InflatingSource:
    """A decompressor whose output is copied to a file as it passes."""

    def __init__(self, stream: _Stream, copy: BinaryIO, directory: Path, label: str) -> None:
        self.stream, self.copy, self.directory, self.label, self.position = stream, copy, directory, label, 0

    def look(self, size: int) -> bytes:
        try:
            data = self.stream.read(size)
        except (OSError, EOFError, zlib.error) as exc:
            raise InputError(
                f"{self.label}: the compressed file is damaged or truncated after {self.position} unpacked bytes "
                f"({exc}); its pixels cannot be trusted, fetch the file again"
            ) from exc
        self.position += len(data)
        return data

    def read(self, size: int) -> bytes:
        data = self.look(size)
        self.copy.write(data)
        return data

    def skip(self, size: int) -> int:
        free = shutil.disk_usage(self.directory).free
        if size > free:
            raise InputError(
                f"{self.label}: unpacks to at least {self.position + size} bytes and the scratch directory has "
                f"{free} free; name another in TMPDIR"
            )
        done = 0
        while done < size and (data := self.read(min(_COPY, size - done))):
            done += len(data)
        return done


def scan_file(path: Path) -> list[HduInfo]:
    """List the HDUs of an uncompressed (or tile-compressed) FITS file.

    Raises
    ------
    InputError
        Not FITS, a header that cannot be, or fewer bytes than the headers declare.
    """
    with open(path, "rb") as file:
        return _scan(_PlainSource(file, os.fstat(file.fileno()).st_size), str(path))


def compression_of(path: Path) -> Literal["gzip", "bzip2"] | None:
    """Tell from its first bytes whether the whole file is compressed, and refuse what cannot be FITS at all."""
    label = str(path)
    try:
        mode = os.stat(path).st_mode  # before it is opened: a pipe would wait for a writer
        if stat.S_ISDIR(mode):
            raise InputError(f"{label}: is a directory, not a FITS file; name the file in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{label}: is a pipe or a device, not a file; copy what it gives to a file")
        with open(path, "rb") as file:
            magic = file.read(6)
    except FileNotFoundError:
        raise InputError(f"{label}: no such file; check the path") from None
    except OSError as exc:
        raise InputError(f"{label}: cannot be read ({exc.strerror}); check the path and its permissions") from exc
    except ValueError as exc:
        if isinstance(exc, InputError):
            raise
        raise InputError(f"{label!r} is not a path ({exc}); check it") from exc
    if not magic:
        raise InputError(f"{label}: the file is empty; fetch it again")
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    if magic[:3] == b"BZh":
        return "bzip2"
    return None


def inflate(path: Path, compression: Literal["gzip", "bzip2"], scratch: Path | None) -> tuple[Path, list[HduInfo]]:
    """Decompress a .fits.gz or .fits.bz2 to a temporary file in `scratch`; never write more than its headers declare.

    Returns
    -------
    unpacked : Path
        The temporary file; the caller removes it (`tiledsky.scratch.drop`).
    hdus : list of HduInfo
        As `scan_file` gives for it.

    Raises
    ------
    InputError
        A damaged stream, one that ends before or goes on after what the headers declare, or no room in `scratch`.
    """
    label = str(path)
    opener = gzip.open if compression == "gzip" else bz2.open
    try:
        handle, unpacked = scratch_file(".fits", scratch)
    except OSError as exc:
        raise InputError(
            f"{label}: tiledsky cannot unpack to the scratch directory ({exc}); name another in TMPDIR"
        ) from exc
    try:
        with os.fdopen(handle, "wb") as copy, opener(path, "rb") as stream:
            hdus = _scan(_InflatingSource(stream, copy, unpacked.parent, label), label)
        return unpacked, hdus
    except BaseException:
        drop(unpacked)
        raise


def _scan(source: _Source, label: str) -> list[HduInfo]:
    """Walk from header to header, checking every data unit against what is there."""
    hdus: list[HduInfo] = []
    while True:
        first = source.read(BLOCK)
        if hdus and not first.strip(b"\0 "):  # the end, or padding
            if len(first) == BLOCK:
                _check_tail(source, label, len(hdus))
            return hdus
        expected = b"XTENSION=" if hdus else b"SIMPLE  ="
        if not first.startswith(expected):
            raise InputError(_surplus(label, len(hdus)) if hdus else _not_fits(label, first))
        if len(hdus) == _MAX_HDUS:
            raise InputError(f"{label}: more than {_MAX_HDUS} HDUs; split the file")
        text = first + _rest_of_header(source, first, f"{label}, HDU {len(hdus)}")
        info = _interpret(text, len(hdus), source.position, label)
        hdus.append(info)
        padded = -(-info.data_bytes // BLOCK) * BLOCK
        # The padding of the last data unit is missing in many files; every pixel is there all the same.
        if (found := source.skip(padded)) < info.data_bytes:
            raise InputError(
                f"{label}, HDU {info}: the file is truncated and has {found} of {info.data_bytes} data bytes; "
                "fetch the file again"
            )


def _check_tail(source: _Source, label: str, count: int) -> None:
    """Check that nothing but zeros, or blanks, follows the last HDU."""
    left = _MAX_TAIL
    while left > 0 and (data := source.look(_COPY)):
        if data.strip(b"\0 "):
            raise InputError(_surplus(label, count))
        left -= len(data)
    if left <= 0:
        raise InputError(f"{label}: more than {_MAX_TAIL} bytes of zeros follow the last HDU; cut them off")


def _surplus(label: str, count: int) -> str:
    return (
        f"{label}: data go on after the {count} HDUs that the headers declare; a header is damaged or the file is not "
        "FITS throughout, fetch the file again or repair it"
    )


def _not_fits(label: str, first: bytes) -> str:
    start = first[:24].decode("ascii", "replace").replace("\ufffd", "?")
    return f"{label}: not a FITS file, it starts with {start!r} instead of 'SIMPLE  ='; give a FITS image"


def _has_end(block: bytes) -> bool:
    return any(block[i : i + 80].rstrip() == b"END" for i in range(0, len(block), 80))


def _rest_of_header(source: _Source, first: bytes, label: str) -> bytes:
    """Read header blocks up to and with the one that holds the END card."""
    blocks, block, total = [], first, len(first)
    while not _has_end(block):
        block = source.read(BLOCK)
        total += len(block)
        if len(block) < BLOCK or total > _MAX_HEADER or block.startswith((b"XTENSION=", b"SIMPLE  =")):
            raise InputError(f"{label}: the header has no END card, it is truncated or damaged; fetch the file again")
        blocks.append(block)
    return b"".join(blocks)


def _axes(header: Header, prefix: str, label: str) -> tuple[int, ...]:
    count = integer(header, f"{prefix}NAXIS", label, minimum=0)
    if count > 999:
        raise InputError(
            f"{label}: {prefix}NAXIS = {count}, above FITS' limit of 999; the header is damaged, repair it"
        )
    return tuple(integer(header, f"{prefix}NAXIS{i}", label, minimum=0) for i in range(count, 0, -1))


def _bitpix(header: Header, keyword: str, label: str) -> int:
    bitpix = integer(header, keyword, label)
    if bitpix not in _BITPIX:
        raise InputError(f"{label}: {keyword} = {bitpix} is not one of {_BITPIX}; the header is damaged, repair it")
    return bitpix


def _interpret(raw: bytes, index: int, offset: int, label: str) -> HduInfo:
    """Turn the bytes of one header into an HduInfo."""
    label = f"{label}, HDU {index}"
    header = parse_cards(raw)
    if index == 0 and value_of(header, "SIMPLE", label) is not True:
        raise InputError(
            f"{label}: SIMPLE is not T, so the file does not claim to follow the FITS standard; convert it"
        )
    bitpix = _bitpix(header, "BITPIX", label)
    shape = _axes(header, "", label)
    groups = index == 0 and shape and shape[-1] == 0 and value_of(header, "GROUPS", label) is True
    pcount = integer(header, "PCOUNT", label, default=0, minimum=0) if index or groups else 0
    gcount = integer(header, "GCOUNT", label, default=1, minimum=1) if index or groups else 1
    elements = math.prod(shape[:-1] if groups else shape) if shape else 0
    data_bytes = abs(bitpix) // 8 * gcount * (pcount + elements) if shape else 0
    kind: Literal["image", "compressed", "other"] = "other"
    xtension = text_value(header, "XTENSION", label) if index else ""
    if (index == 0 or xtension in ("IMAGE", "IUEIMAGE")) and not groups and 0 not in shape and shape:
        kind = "image"
    elif xtension in ("BINTABLE", "A3DTABLE") and value_of(header, "ZIMAGE", label) is True:
        kind = "compressed"
        bitpix, shape = _bitpix(header, "ZBITPIX", label), _axes(header, "Z", label)
    if kind != "other" and (gcount != 1 or (kind == "image" and pcount)):
        raise InputError(
            f"{label}: GCOUNT = {gcount} and PCOUNT = {pcount} are not an image's 1 and 0; the header is damaged, "
            "repair it"
        )
    name = label_value(header, "EXTNAME").upper()
    version = label_value(header, "EXTVER")
    return HduInfo(
        index=index,
        name="" if name == "COMPRESSED_IMAGE" else name,
        ext=label_value(header, "DES_EXT").upper(),
        version=int(version) if version.isdecimal() else 1,  # a label only: not worth refusing a file for
        kind=kind,
        shape=shape if kind != "other" else (),
        bitpix=bitpix,
        header_offset=offset - len(raw),
        data_offset=offset,
        data_bytes=data_bytes,
        header=header,
    )
