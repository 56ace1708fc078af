"""Where a run's pixels come from: FITS files, which are copied into the run store, or Zarr arrays, read in place.

A mask may also be a region file, which is drawn as it is read.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from tiledsky.errors import InputError, TiledSkyError
from tiledsky.geometry import Pair, Region
from tiledsky.images import float_dtype
from tiledsky.io.address import located
from tiledsky.io.fetch import Fetched
from tiledsky.io.fits.cards import quiet
from tiledsky.io.fits.image import FITS_ENDINGS, FitsImage, FitsRef, open_image, split_hdu
from tiledsky.io.fits.plane import parse_header as parse_header
from tiledsky.io.options import InputOptions
from tiledsky.io.regions import SUFFIXES, RegionMask, RegionRef, open_regions
from tiledsky.io.remote import as_system, checked, is_outage, is_url, unreachable
from tiledsky.io.zarr.values import PackedArray, image_of
from tiledsky.nodata import checked as checked_nodata
from tiledsky.planes import roots

if TYPE_CHECKING:
    import zarr

#: Plane name to the role that chooses its HDU and its dtype.
ROLES = {
    "science": "science",
    "weight": "weight",
    "error": "error",
    "dq": "dq",
    "coverage": "coverage",
    "user_mask": "mask",
    "source_mask": "mask",
}
#: Attribute of a group with the FITS header of its science plane, as text.
HEADER = "fits_header"
#: Attribute of an image with the number that means no data in it.
NODATA = "tiledsky_nodata"
#: Attribute (1) of an array whose bits are those of a run's mask plane.
MASK_BITS = "tiledsky_mask"


@dataclass(frozen=True)
class SourcePlane:
    """One plane of the input: an image of a FITS file, a Zarr array or the regions of a file.

    Attributes
    ----------
    fits : FitsRef or None
    array : str or None
        Path of the array's folder.
    shape : (int, int)
    dtype : str
        As stored in the run: native byte order.
    identity : str
        Changes when the file does: size, time and the first and last megabyte, or the sizes and times of all
        files of the array, or the region file and the WCS that places it.
    regions : RegionRef or None
    url : str
        Where ``fits`` was copied from, if it was.
    nodata : float or None
        Of the science plane: the number that means no data.
    is_variance : bool
        Of the error plane: what is stored are variances, of which the plane is the square root.
    """

    fits: FitsRef | None
    array: str | None
    shape: Pair
    dtype: str
    identity: str
    regions: RegionRef | None = None
    url: str = ""
    nodata: float | None = None
    is_variance: bool = False

    @property
    def path(self) -> str:
        """File, folder or address that holds the plane."""
        return self.url or next(
            str(path) for path in (self.fits and self.fits.path, self.regions and self.regions.path, self.array) if path
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plane as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SourcePlane:
        """Inverse of `to_json`."""
        ref = FitsRef(**data["fits"]) if data["fits"] else None
        drawn = data["regions"]
        regions = RegionRef(**{**drawn, "shape": tuple(drawn["shape"])}) if drawn else None
        plane = cls(ref, data["array"], tuple(data["shape"]), data["dtype"], data["identity"], regions)
        return replace(plane, nodata=data.get("nodata"), is_variance=data.get("is_variance", False))

    def again(self) -> SourcePlane:
        """Look at the input anew: another identity if it changed since.

        Raises
        ------
        InputError
            It is gone, or no longer what can be read.
        """
        now = self._again()
        return now.as_error if self.is_variance else now

    def _again(self) -> SourcePlane:
        try:
            if self.fits is not None:
                status = os.stat(self.fits.path)
                fits = replace(self.fits, size=status.st_size, mtime_ns=status.st_mtime_ns)
                return replace(self, fits=fits, identity=_fits_identity(fits))
            if self.regions is not None:
                now = open_regions(self.regions.path, shape=self.shape, header=self.regions.header)
                return replace(self, regions=now, identity=now.identity)
            from tiledsky.io.zarr.source import zarr_plane

            assert self.array is not None
            return zarr_plane(located(self.array), flags=np.dtype(self.dtype).kind != "f")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.path} can no longer be read ({error}); put it back, then run again") from None

    @property
    def as_error(self) -> SourcePlane:
        """This plane of variances as one of standard deviations."""
        dtype = float_dtype(self.dtype).name
        return replace(self, dtype=dtype, identity=f"variance {self.identity}", is_variance=True)

    def open(self) -> FitsReader | RegionMask | PackedArray | Roots | zarr.Array[Any]:
        """Open for reading, by `read_plane`."""
        return Roots(self._open()) if self.is_variance else self._open()

    def _open(self) -> FitsReader | RegionMask | PackedArray | zarr.Array[Any]:
        if self.fits is not None:
            return FitsReader(self.fits.open())
        if self.regions is not None:
            return self.regions.open()
        from tiledsky.io.zarr.check import open_zarr_array

        array = open_zarr_array(str(self.array))
        return cast("PackedArray | zarr.Array[Any]", image_of(str(self.array), array, np.dtype(self.dtype)))


class FitsReader:
    """A FITS image that is indexed by two slices, as an array is."""

    def __init__(self, image: FitsImage) -> None:
        self.image = image

    def __getitem__(self, slices: tuple[slice, slice]) -> NDArray[Any]:
        y, x = slices
        return self.image.read(y.start, y.stop, x.start, x.stop)

    def close(self) -> None:
        """Close the file."""
        self.image.close()


class Roots:
    """Square roots of a plane that is open; NaN of what is below 0."""

    def __init__(self, variances: FitsReader | RegionMask | PackedArray | zarr.Array[Any]) -> None:
        self.variances = variances

    def read(self, region: Region) -> NDArray[Any]:
        """Pixels of a region."""
        return roots(read_plane(self.variances, region))

    def close(self) -> None:
        """Close the file, if it is one."""
        close(self.variances)


def close(plane: Any) -> None:
    """Close a plane that is open, if it is (of) a file."""
    if isinstance(plane, FitsReader | Roots):
        plane.close()


@dataclass(frozen=True)
class Source:
    """The planes of an input by name (those of `ROLES`, in that order), and the header of its science image."""

    planes: dict[str, SourcePlane]
    header: str

    @property
    def shape(self) -> Pair:
        """Shape of all planes."""
        return self.planes["science"].shape


class Opened(NamedTuple):
    """A plane, the header that came with it, planes beside it in its group, whether its bits are those of a mask."""

    plane: SourcePlane
    header: str = ""
    siblings: dict[str, SourcePlane] = {}  # noqa: RUF012 (a NamedTuple's default; never written to)
    mask_bits: bool = False


_PLANE_OPTIONS: tuple[Literal["weight", "error", "variance", "dq", "coverage", "mask", "user_mask"], ...] = (
    *("weight", "error", "variance", "dq", "coverage", "mask", "user_mask"),
)


def open_source(
    science: str | os.PathLike[str], *, scratch: Path | None = None, **inputs: Unpack[InputOptions]
) -> Source:
    """Look at the input and check that its planes fit together; no pixel is used.

    Parameters
    ----------
    science : path
        FITS (plain, .gz, .bz2, .fz; ``file.fits:HDU``) or Zarr: an array, or a group with ``science`` (and ``weight``,
        ``error``, ``dq``, ``coverage``, ``user_mask``, ``source_mask``), as `tiledsky ingest` writes it.
    scratch : Path, optional
        Where compressed files are unpacked.
    **inputs
        See `tiledsky.io.options.InputOptions`.

    Raises
    ------
    InputError
        What is missing, ambiguous or damaged, or differs in shape; two user masks; an error and a variance plane; a run
        that is not finished.
    ParameterError
        ``nodata`` that no pixel can have.
    """
    checksum = inputs.get("checksum", True)
    opened = _open_plane(science, "science", inputs.get("hdu"), scratch, checksum)
    nodata = checked_nodata(inputs.get("nodata"), float_dtype(opened.plane.dtype))
    number = opened.plane.nodata if nodata is None else nodata if isinstance(nodata, float) else None
    planes, header = opened.siblings | {"science": replace(opened.plane, nodata=number)}, opened.header
    shape = opened.plane.shape
    options = {name: inputs.get(name) for name in _PLANE_OPTIONS}
    given: set[str] = set()
    for option, where in options.items():
        if where is None:
            continue
        if option.endswith("mask") and Path(where).suffix.lower() in SUFFIXES:
            if is_url(where):
                raise InputError(
                    f"{checked(os.fspath(where))}: region files are read from folders alone; copy it there"
                )
            ref = open_regions(where, shape=shape, header=header)
            opened = Opened(SourcePlane(None, None, shape, RegionMask.dtype.name, ref.identity, ref))
        else:
            opened = _open_plane(where, option, None, scratch, checksum)
        name = ("source_mask" if opened.mask_bits else "user_mask") if option == "mask" else option
        name = "error" if option == "variance" else name
        if name in given:
            if name == "error":
                both = f"{options['error']} and {options['variance']}"
                raise InputError(f"{both} both say how noisy a pixel is; give --error or --variance, not both")
            both = f"{options['mask']} and {options['user_mask']}"
            raise InputError(f"{both} are two user masks; give one with --user-mask, or unite them")
        given.add(name)
        planes[name] = opened.plane.as_error if option == "variance" else opened.plane
    source = Source({name: planes[name] for name in ROLES if name in planes}, header)
    _check(source)
    return source


def _check(source: Source) -> None:
    """Check that planes are on one grid, and that mask bits are bits."""
    for name, plane in source.planes.items():
        if plane.shape != source.shape:
            raise InputError(
                f"{name} is {plane.shape[0]} x {plane.shape[1]} px, the science image "
                f"{source.shape[0]} x {source.shape[1]}; all planes must be on one grid"
            )
        if name == "source_mask" and plane.dtype != "uint8":
            raise InputError(f"{plane.path}: {plane.dtype} pixels have no mask bits; give the uint8 mask of a run")


def _open_plane(
    where: str | os.PathLike[str], name: str, hdu: str | int | None, scratch: Path | None, checksum: bool
) -> Opened:
    path, named = split_hdu(where)
    away = is_url(where)
    if Path(where).is_dir() or (away and not path.lower().endswith(FITS_ENDINGS)):
        return _open_zarr(located(where), name, hdu)
    if Path(path).is_dir():
        return _open_zarr(Path(path), name, named)
    if named is not None and hdu is not None:
        raise InputError(f"{where} names an HDU, and --hdu {hdu} another; give one of them")
    chosen = hdu if named is None else named
    if not away:
        return _open_fits(Path(path), chosen, name, scratch, checksum)
    fetched = Fetched(path, scratch)
    try:
        opened = _open_fits(fetched.path, chosen, name, scratch, checksum)
    except InputError as error:  # about a copy that is gone by the time it is read
        raise InputError(str(error).replace(str(fetched.path), path)) from None
    _keep_open.append(fetched)
    return opened._replace(plane=replace(opened.plane, url=path))


def _open_zarr(path: Path, name: str, inner: str | int | None) -> Opened:
    from tiledsky.io.zarr.source import open_zarr_plane  # a third of a second, which FITS files need not wait for

    return open_zarr_plane(path, name, inner)


def _open_fits(path: Path, hdu: str | int | None, name: str, scratch: Path | None, checksum: bool) -> Opened:
    if isinstance(hdu, str) and hdu.isdecimal():
        hdu = int(hdu)
    role: Any = name if name == "variance" else ROLES.get(name, "mask")
    image = open_image(path, hdu=hdu, role=role, scratch=scratch, checksum=checksum)
    ref = image.reopen_token()
    identity = _fits_identity(ref)
    with quiet():
        text = image.header.tostring(sep="\n", endcard=False, padding=False) if name == "science" else ""
    plane = SourcePlane(ref, None, image.shape, np.dtype(image.dtype).name, identity)
    if ref.unpacked is None:
        image.close()
    else:
        _keep_open.append(image)  # its scratch copy lives as long as the image
    return Opened(plane, text)


#: Unpacked images and copies of this process: the run that reads them is driven from here.
_keep_open: list[FitsImage | Fetched] = []


def _fits_identity(ref: FitsRef) -> str:
    return f"{ref.size} {ref.mtime_ns} {_ends_digest(Path(ref.path))} {ref.hdu}"


def _ends_digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(1 << 20), digest_size=16)
        file.seek(max(path.stat().st_size - (1 << 20), 0))
        digest.update(file.read())
    return digest.hexdigest()


def read_plane(plane: Any, region: Region) -> NDArray[Any]:
    """Pixels of a region of a plane."""
    try:
        if isinstance(plane, Roots):
            return plane.read(region)
        if isinstance(plane, FitsReader | RegionMask | PackedArray):
            return np.asarray(plane[region.slices])
        from tiledsky.io.zarr.shards import is_plain, read_region

        return read_region(plane, region) if is_plain(plane) else np.asarray(plane[region.slices])
    except TiledSkyError:
        raise
    except Exception as error:  # a damaged chunk: codecs raise whatever they meet first
        where = getattr(plane, "store_path", type(plane).__name__)
        if is_outage(error):
            raise unreachable(str(where), error) from as_system(error)
        raise InputError(
            f"{where}: rows {region.y0} to {region.y1 - 1} cannot be read ({type(error).__name__}: {error}); the array "
            "is damaged, write it again"
        ) from error
