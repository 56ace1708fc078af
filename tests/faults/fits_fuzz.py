"""Damage FITS files and see what the reader makes of them; run in a process of its own, with little memory.

``python -m tests.faults.fits_fuzz FOLDER SEED KIND...`` prints one line of JSON for each kind of file: how many damaged
files were refused with a typed error, how many were read, and what went wrong. The damage is written to FOLDER/last
before each attempt, so that a crash shows what caused it.
"""

from __future__ import annotations

import gzip
import json
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits as astropy_fits

from tiledsky.errors import InputError, ParameterError
from tiledsky.geometry import Region
from tiledsky.io.fits.image import FitsImage, open_image
from tiledsky.io.fits.scan import scan_file

#: Seconds that one attempt may take. The largest of the files has 100 kB.
LIMIT_SECONDS = 5
#: Beyond what is in use when the damage begins.
LIMIT_MEMORY = 128 << 20
#: Damaged headers, and truncations, of each kind of file; the other kinds of compression differ in their tiles alone.
ATTEMPTS = 100
ATTEMPTS_TILES = 40

NASTY = (
    "0", "-1", "1", "2", "3", "7", "16", "-32", "64", "999", "1000", "2147483647", "2147483648", "4294967296",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "99999999999999999999999999999", "1.5",
    "1E400", "NaN", "inf", "T", "F", "''", "'x'", "'NaN'", "1 2", "", "(1,2)", "-0.0", "1D3", "0x10", "61", "47", "60",
)  # fmt: skip
WORDS = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "GROUPS", "TFIELDS",
    "TFORM1", "TTYPE1", "TFORM2", "TTYPE2", "THEAP", "ZIMAGE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1",
    "ZTILE2", "ZCMPTYPE", "ZNAME1", "ZVAL1", "ZNAME2", "ZVAL2", "ZQUANTIZ", "ZDITHER0", "ZBLANK", "ZSIMPLE", "BSCALE",
    "BZERO", "BLANK", "EXTNAME", "EXTVER", "BUNIT", "END", "CTYPE1", "CHECKSUM", "DATASUM",
)  # fmt: skip


def pixels(dtype: str = "f4") -> np.ndarray[Any, Any]:
    """An image of 61 x 47 px."""
    values = np.random.default_rng(7).normal(100.0, 20.0, (61, 47))
    return np.maximum(values, 0).astype(dtype)


def _tiled(dtype: str, method: str, **options: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdu = astropy_fits.CompImageHDU(pixels(dtype), name="SCI", compression_type=method, **options)
    return [astropy_fits.PrimaryHDU(), hdu]


def _plain() -> list[Any]:
    hdu = astropy_fits.PrimaryHDU(pixels("i2"))
    hdu.header["BSCALE"], hdu.header["BZERO"], hdu.header["BLANK"] = 0.5, 10.0, -32768
    hdu.header["BUNIT"], hdu.header["OBJECT"] = "MJy/sr", "M 101"
    return [hdu]


def _several() -> list[Any]:
    sci, wht = astropy_fits.ImageHDU(pixels(), name="SCI"), astropy_fits.ImageHDU(pixels("f8"), name="WHT")
    table = astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("a", "J", array=[1])], name="T")
    return [astropy_fits.PrimaryHDU(), sci, wht, table]


#: What is damaged: a list of HDUs.
KINDS: dict[str, Callable[[], list[Any]]] = {
    "plain": _plain,
    "several": _several,
    "gz": _several,
    "rice": lambda: _tiled("f4", "RICE_1"),
    "rice_whole": lambda: _tiled("i2", "RICE_1", tile_shape=(61, 47)),
    "gzip": lambda: _tiled("f4", "GZIP_2", quantize_level=0, tile_shape=(16, 47)),
    "plio": lambda: _tiled("i2", "PLIO_1", tile_shape=(10, 20)),
    "hcompress": lambda: _tiled("i2", "HCOMPRESS_1", tile_shape=(16, 47)),
}


class Slow(BaseException):
    """An attempt took too long; no ``except Exception`` may catch it."""


def _alarm(*_: Any) -> None:
    raise Slow


def _cards(content: bytes, start: int, end: int) -> list[bytes]:
    return [content[i : i + 80] for i in range(start, end, 80)]


def _card(word: str, value: str) -> bytes:
    return f"{word:<8}= {value:>20}".ljust(80)[:80].encode()


def damaged_headers(content: bytes, hdus: list[Any], rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield a description and the file with one or two cards of its headers damaged."""
    while True:
        info = hdus[int(rng.integers(len(hdus)))]
        cards = _cards(content, info.header_offset, info.data_offset)
        notes = []
        for _ in range(int(rng.integers(1, 3))):
            present = [i for i, c in enumerate(cards) if c[:8].decode("ascii", "replace").strip() in WORDS]
            at = int(rng.choice(present)) if present else 0
            word = cards[at][:8].decode("ascii", "replace").strip()
            action = rng.choice(["value", "value", "value", "new", "drop", "twice", "bytes", "swap", "other", "blank"])
            value = str(rng.choice(NASTY))
            notes.append(f"{info.index} {action} {word} {value}")
            if action == "value":
                cards[at] = _card(word, value)
            elif action in ("new", "twice"):
                new = word if action == "twice" else str(rng.choice(WORDS))
                notes[-1] += f" {new}"
                cards.insert(at + 1, _card(new, value))
                cards.pop()  # a blank card at the end of the block, or END itself
            elif action == "drop":
                del cards[at]
                cards.append(b" " * 80)
            elif action == "bytes":
                card = bytearray(cards[at])
                for i in rng.integers(0, 80, 4):
                    card[i] = int(rng.integers(256))
                cards[at] = bytes(card)
            elif action == "swap":
                other = int(rng.integers(len(cards)))
                cards[at], cards[other] = cards[other], cards[at]
            elif action == "other":
                cards[at] = _card(str(rng.choice(WORDS)), value)
            else:
                cards[at] = b" " * 80
        header = b"".join(cards)
        yield "; ".join(notes), content[: info.header_offset] + header + content[info.data_offset :]


def damaged_data(content: bytes, hdus: list[Any], rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield the file with some bytes of its last data unit damaged: of the table of tiles, or of their streams."""
    info = hdus[-1]
    table = int(info.header["NAXIS1"]) * int(info.header["NAXIS2"])
    while True:
        damaged = bytearray(content)
        first, size = (0, table) if rng.random() < 0.6 else (table, min(info.data_bytes - table, 400))
        for _ in range(int(rng.integers(1, 6))):
            at = info.data_offset + first + int(rng.integers(size))
            damaged[at] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
        yield f"data {'table' if first == 0 else 'stream'}", bytes(damaged)


class Fuzz:
    """Attempts on one kind of file, and what came of them."""

    def __init__(self, folder: Path, kind: str, seed: int) -> None:
        folder.mkdir()
        hdus, self.packed = KINDS[kind], kind == "gz"
        self.path = folder / ("image.fits.gz" if self.packed else "image.fits")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            astropy_fits.HDUList(hdus()).writeto(folder / "whole.fits")
        self.folder, self.kind, self.rng = folder, kind, np.random.default_rng(seed)
        self.content = (folder / "whole.fits").read_bytes()
        self.hdus = scan_file(folder / "whole.fits")
        with open_image(folder / "whole.fits", hdu=self._hdu()) as image:
            self.expected = _read(image)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def _hdu(self) -> str | None:
        return "SCI" if len(self.hdus) > 1 else None

    def run(self) -> dict[str, Any]:
        """Try everything."""
        began = time.monotonic()
        main = self.kind in ("plain", "several", "gz", "rice")
        attempts = ATTEMPTS if main else ATTEMPTS_TILES
        headers = damaged_headers(self.content, self.hdus, self.rng)
        for _ in range(attempts):
            self.attempt("header", *next(headers))
        if self.hdus[-1].kind == "compressed":
            data = damaged_data(self.content, self.hdus, self.rng)
            for _ in range(attempts):
                self.attempt("data", *next(data))
        packed = self._pack(self.content)
        for size in [0, 1, len(packed) - 1, *(int(s) for s in self.rng.integers(0, len(packed), ATTEMPTS - 3))] * main:
            self.attempt("cut", f"cut {size}", self.content, size=size)
        return {
            "kind": self.kind, "counts": dict(self.counts), "failures": self.failures,
            "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    def _pack(self, content: bytes) -> bytes:
        return gzip.compress(content, 1, mtime=0) if self.packed else content

    def attempt(self, what: str, note: str, content: bytes, *, size: int | None = None) -> None:
        """Write one damaged file and read it."""
        (self.folder / "last").write_text(note)
        self.path.write_bytes(self._pack(content)[:size])
        signal.alarm(LIMIT_SECONDS)
        result: np.ndarray[Any, Any] | None = None
        index = 0
        try:
            with open_image(self.path, hdu=self._hdu(), scratch=self.folder) as image:
                index = image.hdu
                result = _read(image)
            outcome = "read"
        except (InputError, ParameterError) as error:
            text = str(error)
            outcome = "refused"
            if self.path.name not in text or "\n" in text or len(text) > 1500:
                self.failures.append(f"{note}: message {text!r}")
            if "MemoryError" in text:
                self.failures.append(f"{note}: took the memory: {text}")
        except Slow:
            outcome = "slow"
            self.failures.append(f"{note}: more than {LIMIT_SECONDS} s")
        except Exception as error:
            outcome = "other error"
            self.failures.append(f"{note}: {type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
        if result is not None:
            if size is not None and not self._harmless(size):
                self.failures.append(f"{note}: read, though cut off")
            outcome = self._judge(note, result, index)
        self.counts[f"{what}: {outcome}"] += 1
        if left := [p.name for p in self.folder.glob("tiledsky-*")]:
            self.failures.append(f"{note}: left {left}")

    def _harmless(self, size: int) -> bool:
        """Whether a file cut here ends in the padding of an HDU: what comes after it cannot be missed."""
        ends = [(h.data_offset + h.data_bytes, h.data_offset + -(-h.data_bytes // 2880) * 2880) for h in self.hdus]
        return not self.packed and any(first <= size <= last for first, last in ends)

    def _judge(self, note: str, result: np.ndarray[Any, Any], index: int) -> str:
        """Compare with the undamaged image, else with astropy."""
        if result.shape == self.expected.shape and np.array_equal(result, self.expected, equal_nan=True):
            return "read, right"
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                reference = np.asarray(astropy_fits.getdata(self.path, index))
                reference = reference.astype(result.dtype).reshape(result.shape)
        except Exception:
            return "read, astropy does not"
        if not np.array_equal(result, reference, equal_nan=True):
            self.failures.append(f"{note}: other pixels than astropy's: {result[0, :3]} {reference[0, :3]}")
        return "read, as astropy"


def _read(image: FitsImage) -> np.ndarray[Any, Any]:
    return image.read(Region(0, image.shape[0], 0, image.shape[1]))


def main() -> None:
    """Run kinds of file one after another, and print what came of them."""
    folder, seed, kinds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    runs = [Fuzz(folder / kind, kind, seed) for kind in kinds]
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + LIMIT_MEMORY,) * 2)
    signal.signal(signal.SIGALRM, _alarm)
    for run in runs:
        (folder / "kind").write_text(run.kind)
        print(json.dumps(run.run()), flush=True)


if __name__ == "__main__":
    main()
