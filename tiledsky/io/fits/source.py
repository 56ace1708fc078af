"""Planes of an input that are images of FITS files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.image import FitsImage, FitsRef, open_image
from tiledsky.io.fits.select import Role
from tiledsky.io.plane_reader import PlaneEntry, SourcePlane

_END = 1 << 20


@dataclass(frozen=True)
class FitsPlane(SourcePlane):
    """An image of a FITS file; its identity: size, time, the first and last megabyte of the file, and the HDU."""

    ref: FitsRef

    kind: ClassVar[str] = "fits"
    is_copied: ClassVar[bool] = True

    @property
    def reference(self) -> Any:
        """Where the image is, as plain data."""
        return asdict(self.ref)

    @property
    def file(self) -> str:
        """File of this machine that is read."""
        return self.ref.path

    @property
    def is_tiled(self) -> bool:
        """Whether the image is tile-compressed."""
        with self.ref.open() as image:
            return image.tiled

    def change(self, before: SourcePlane) -> str:
        """Say what of the file changed."""
        name = Path(self.path).name
        if isinstance(before, FitsPlane):
            if (before.ref.size, before.ref.mtime_ns) != (self.ref.size, self.ref.mtime_ns):
                return f"size or time of {name} changed"
            if before.ref.hdu != self.ref.hdu:
                return f"HDU {before.ref.hdu} -> {self.ref.hdu} of {name}"
        return f"content of {name} changed"

    def _open(self) -> FitsImage:
        return self.ref.open()

    def _again(self) -> Self:
        status = os.stat(self.ref.path)
        ref = replace(self.ref, size=status.st_size, mtime_ns=status.st_mtime_ns)
        return replace(self, ref=ref, identity=_identity(ref))


def open_fits_plane(
    path: Path, *, hdu: int | str | None, role: Role, scratch: Path | None, checksum: bool
) -> tuple[PlaneEntry, FitsImage | None]:
    """Look at an image for a plane; arguments and errors as of `tiledsky.io.fits.image.open_image`.

    Returns
    -------
    PlaneEntry
        With the header of a science image; of footprints that are several images, with the others.
    FitsImage or None
        What has to be kept as long as the plane is read: an image unpacked to a scratch file, which goes with it.
    """
    image = open_image(path, hdu=hdu, role=role, scratch=scratch, checksum=checksum)
    ref = image.reopen_token()
    with quiet():
        text = image.header.tostring(sep="\n", endcard=False, padding=False) if role == "science" else ""
    plane = FitsPlane(ref, shape=image.shape, dtype=np.dtype(image.dtype).name, identity=_identity(ref))
    further = (replace(ref, layer=k) for k in range(1, image.n_layers if role == "footprints" else 1))
    siblings = {str(one.layer): replace(plane, ref=one, identity=_identity(one)) for one in further}
    if ref.unpacked is not None:
        return PlaneEntry(plane, text, siblings), image
    image.close()
    return PlaneEntry(plane, text, siblings), None


def _identity(ref: FitsRef) -> str:
    layer = f" layer {ref.layer}" if ref.layer else ""
    return f"{ref.size} {ref.mtime_ns} {_ends_digest(Path(ref.path))} {ref.hdu}{layer}"


def _ends_digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(_END), digest_size=16)
        file.seek(max(path.stat().st_size - _END, 0))
        digest.update(file.read())
    return digest.hexdigest()
