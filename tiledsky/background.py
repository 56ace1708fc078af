"""The mesh background of one image: the interface of photutils' ``Background2D``, on numpy or dask arrays."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from astropy.nddata import NDData
from astropy.stats import SigmaClip
from astropy.units import Quantity
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray
from photutils.background import BkgIDWInterpolator, SExtractorBackground, StdBackgroundRMS

from tiledsky.errors import InputError, ParameterError
from tiledsky.filters import check_image, float_dtype
from tiledsky.geometry import Pair
from tiledsky.mesh import MeshParameters, array_box_statistics, cells_of, finish, surfaces
from tiledsky.overlap import Patch, blank, call, map_patches
from tiledsky.photutils_objects import box_clip, box_estimator, box_rms_estimator, surface_interpolator, unclipped
from tiledsky.steps import ZoomInterpolator
from tiledsky.surface import sky_pixels

_CLIP = SigmaClip(sigma=3.0, maxiters=10)
_PARAMETERS = (
    "fill_value",
    "exclude_percentile",
    "filter_size",
    "filter_threshold",
    "sigma_clip",
    "bkg_estimator",
    "bkg_rms_estimator",
    "interpolator",
)


class Background2D:
    """Background and background rms of an image, from clipped statistics in boxes.

    Takes the place of `photutils.background.Background2D` 3.0: same parameters, attributes, warnings and kinds of
    errors. It is faster, and takes dask arrays.

    Parameters
    ----------
    data : array_like, `astropy.units.Quantity`, `astropy.nddata.NDData` or dask.array.Array, (ny, nx)
        The image; not changed. Values that are not finite are left out, and so are masked ones of a masked array; the
        mask of an NDData is not looked at. Float images give float results (float32 or float64), integers float32.
    box_size : int or (int, int)
        Box in pixels, (y, x); cut to the image. Boxes at the upper and right edges may be partial.
    mask : array of bool, (ny, nx), optional
        True = left out of the statistics, as for sources and bad pixels. The background is estimated there too.
    coverage_mask : array of bool, (ny, nx), optional
        True = no data there: left out of the statistics, and `fill_value` in the results.
    fill_value : float
        For pixels of `coverage_mask`.
    exclude_percentile : float
        0 to 100. A box takes part if more than ``(1 - exclude_percentile / 100) * by * bx`` of its pixels are left
        after masks, image edge and clipping: 100 excludes only boxes without a pixel, 0 all. Excluded boxes are filled
        from their neighbours.
    filter_size : int or (int, int)
        Window of the median filter of the mesh, in boxes, odd; 1 does not filter.
    filter_threshold : float, optional
        Filter only the boxes whose background is above this.
    sigma_clip : `astropy.stats.SigmaClip` or None
        Clipping of each box, by default at 3 sigma with 10 rounds. One with callables or `grow` is called itself, on
        rows of boxes, which is slow. None does not clip.
    bkg_estimator, bkg_rms_estimator : callable, optional
        Objects of `photutils.background`, or functions ``f(boxes, axis=1)`` on boxes as rows, NaN where left out.
        Default `SExtractorBackground` and `StdBackgroundRMS`. Clipping of their own is put aside (in a copy). Objects
        of photutils with their default parameters run as compiled kernels.
    interpolator : optional
        `tiledsky.recipe.ZoomInterpolator` (the default) or `tiledsky.recipe.IDWInterpolator`, or photutils' objects of
        these names. A zoom of other order or mode and any other callable are called as photutils calls them (not for
        dask arrays): ``f(mesh, shape=, dtype=, box_size=)``.

    Attributes
    ----------
    box_size, filter_size : ndarray of 2 integers
    fill_value, exclude_percentile, filter_threshold, sigma_clip, bkg_estimator, bkg_rms_estimator, interpolator
        As given, or the default.
    coverage_mask : array of bool or None

    Raises
    ------
    ParameterError, InputError
        Both are ValueErrors: a parameter without meaning, arrays that do not fit, no pixel or no box left.

    Warns
    -----
    AstropyUserWarning
        Pixels outside the masks are not finite. Not for dask arrays: it would come late, and in a worker.

    Notes
    -----
    A dask image is not computed: `background`, `background_rms` and `n_pixels_map` are dask arrays with its chunks,
    meshes dask arrays of one chunk, medians 0-d ones; errors about the values come when they are computed. The bits are
    those of the same numpy array, for any chunks. `plot_meshes` computes the mesh.

    Halo: none. Memory: the meshes are kept; the maps are made anew at each access, as in photutils. On the way a numpy
    image takes up to four bytes a pixel for masks, and a copy if it is not float or not in native byte order. A dask
    task holds a chunk (cut at box corners) and its masks, or the whole mesh (24 bytes a box, more while it is filled).

    Against photutils 3.0: box medians, clipping and counts are the same numbers; means and deviations are summed in
    float64 also for float32 images. IDW weights share the last place among boxes that are equally far. The keywords
    and attributes that are deprecated there are not here; `interpolator` is not deprecated.
    """

    def __init__(
        self,
        data: Any,
        box_size: Any,
        *,
        mask: Any = None,
        coverage_mask: Any = None,
        fill_value: float = 0.0,
        exclude_percentile: float = 10.0,
        filter_size: Any = (3, 3),
        filter_threshold: float | None = None,
        sigma_clip: Any = _CLIP,
        bkg_estimator: Any = None,
        bkg_rms_estimator: Any = None,
        interpolator: Any = None,
    ) -> None:
        image, hidden, self._unit = _unpacked(data)
        self._shape: Pair = tuple(image.shape)
        self._has_mask = mask is not None and mask is not np.ma.nomask
        self.coverage_mask = _mask_like(image, coverage_mask, "coverage_mask")
        ignore = [_mask_like(image, mask, "mask"), self.coverage_mask, _mask_like(image, hidden, "mask")]
        self.box_size = np.minimum(_pair("box_size", box_size), self._shape)
        self.fill_value = fill_value
        if not 0 <= exclude_percentile <= 100:
            raise ParameterError(
                f"exclude_percentile must be between 0 and 100, not {exclude_percentile}, percent of a box"
            )
        self.exclude_percentile = exclude_percentile
        self.filter_size = _pair("filter_size", filter_size, odd=True)
        self.filter_threshold = filter_threshold
        self.sigma_clip = sigma_clip
        self.bkg_estimator = unclipped(SExtractorBackground() if bkg_estimator is None else bkg_estimator)
        self.bkg_rms_estimator = unclipped(StdBackgroundRMS() if bkg_rms_estimator is None else bkg_rms_estimator)
        self.interpolator = ZoomInterpolator() if interpolator is None else interpolator
        native = surface_interpolator(self.interpolator)
        self._dtype = float_dtype(image.dtype) if image.dtype.kind == "f" else np.dtype(np.float32)
        self._lazy_chunks = image.chunks if isinstance(image, da.Array) else None
        self._template = blank(image)
        if self._lazy_chunks and native is None:
            raise ParameterError(
                f"interpolator {self.interpolator!r} makes the whole image at once, which a lazy image is not; "
                "use ZoomInterpolator or IDWInterpolator"
            )
        parameters = MeshParameters(
            name=type(self).__name__,
            box_size=self._box,
            filter_size=(int(self.filter_size[0]), int(self.filter_size[1])),
            filter_threshold=filter_threshold,
            exclude_percentile=exclude_percentile,
            clip=box_clip(sigma_clip),
            estimator=box_estimator(self.bkg_estimator),
            rms_estimator=box_rms_estimator(self.bkg_rms_estimator),
            interpolator=ZoomInterpolator() if native is None else native,
        )
        self._cells = cells_of(self._shape, parameters)
        left_out = _any_of(ignore)
        if self._lazy_chunks is None:
            _check_pixels(image, left_out)
        statistics = array_box_statistics(image.astype(self._dtype, copy=False), left_out, parameters)
        self._mesh = call(finish, statistics, parameters)
        self._surfaces = None if native is None else call(surfaces, self._mesh, native)

    @property
    def _box(self) -> Pair:
        return int(self.box_size[0]), int(self.box_size[1])

    def _low_resolution(self, name: str, dtype: Any) -> Any:
        """Return one array of the mesh, lazily or not."""
        values = getattr(self._mesh, name)
        return values if self._lazy_chunks is None else da.from_delayed(values, self._cells, dtype=dtype)

    def _in_unit(self, values: Any) -> Any:
        return values if self._unit is None else values << self._unit

    def _median(self, name: str) -> Any:
        median = call(np.median, getattr(self._mesh, name))
        if self._lazy_chunks is None:
            return self._in_unit(median)
        return da.from_delayed(median, (), dtype=self._dtype)

    def _pixels(self, which: int) -> Any:
        if self._surfaces is not None:
            pixels = sky_pixels(
                self._template,
                self._surfaces,
                which,
                dtype=self._dtype,
                coverage=self.coverage_mask,
                fill_value=self.fill_value,
            )
            return self._in_unit(pixels)
        options: dict[str, Any] = {"shape": self._shape, "dtype": self._dtype, "box_size": self.box_size}
        if isinstance(self.interpolator, BkgIDWInterpolator):
            options |= {"mesh_yxcen": self._centres(), "mesh_nan_mask": self._mesh.excluded}
        resize: Any = self.interpolator
        pixels = np.array(resize((self.background_mesh, self.background_rms_mesh)[which], **options))
        if self.coverage_mask is not None:
            pixels[self.coverage_mask] = self.fill_value
        return self._in_unit(pixels)

    @property
    def background(self) -> Any:
        """The background of every pixel, (ny, nx); made anew at each access."""
        return self._pixels(0)

    @property
    def background_rms(self) -> Any:
        """The scatter of single pixels about the background, (ny, nx); made anew at each access."""
        return self._pixels(1)

    @cached_property
    def background_mesh(self) -> Any:
        """The background of the boxes, filled and filtered, (nby, nbx)."""
        return self._in_unit(self._low_resolution("background", self._dtype))

    @cached_property
    def background_rms_mesh(self) -> Any:
        """The rms of the boxes, filled and filtered, (nby, nbx)."""
        return self._in_unit(self._low_resolution("rms", self._dtype))

    @cached_property
    def background_median(self) -> Any:
        """Median of `background_mesh`, filled boxes included."""
        return self._median("background")

    @cached_property
    def background_rms_median(self) -> Any:
        """Median of `background_rms_mesh`, filled boxes included."""
        return self._median("rms")

    @property
    def n_pixels_mesh(self) -> Any:
        """Pixels a box that its statistics are of, (nby, nbx)."""
        return self._low_resolution("n_good", np.int64)

    @property
    def n_pixels_map(self) -> Any:
        """`n_pixels_mesh` for every pixel, (ny, nx); made anew at each access."""
        options = {"n_good": self._mesh.n_good, "box": self._box}
        return map_patches(_counts, self._template, halo=(0, 0), dtype=np.int64, name="n_pixels_map", **options)

    def _centres(self) -> NDArray[np.float64]:
        """Pixel positions (y, x) of the centres of the boxes that are not excluded, (2, n)."""
        excluded = np.asarray(self._low_resolution("excluded", np.bool_))
        return np.array(np.nonzero(~excluded)) * self.box_size[:, None] + (self.box_size[:, None] - 1) / 2

    def plot_meshes(
        self,
        *,
        ax: Any = None,
        marker: str = "+",
        markersize: float | None = None,
        color: Any = "blue",
        alpha: float | None = None,
        outlines: bool = False,
        **kwargs: Any,
    ) -> None:
        """Mark the centres of the boxes that are not excluded on matplotlib axes.

        Parameters
        ----------
        ax : `matplotlib.axes.Axes`, optional
            Default: the current ones.
        marker, markersize, color, alpha
            Of the markers, as `matplotlib.axes.Axes.scatter` takes them (`markersize` is its ``s``).
        outlines : bool
            Draw the outlines of these boxes too.
        **kwargs
            For the outlines: keywords of `matplotlib.patches.Patch`.
        """
        from matplotlib import pyplot
        from matplotlib.patches import Rectangle

        ax = pyplot.gca() if ax is None else ax
        y, x = self._centres()
        ax.scatter(x, y, s=markersize, marker=marker, color=color, alpha=alpha)
        if outlines:
            by, bx = self._box
            for corner in zip(x - bx / 2, y - by / 2, strict=True):
                ax.add_patch(Rectangle(corner, bx, by, **{"fill": False, "color": color, "alpha": alpha, **kwargs}))

    def _described(self) -> dict[str, Any]:
        array = f"<array; shape={self._shape}>"
        masks = {"mask": array if self._has_mask else None}
        masks["coverage_mask"] = None if self.coverage_mask is None else array
        return {
            "data": array,
            "box_size": self.box_size,
            **masks,
            **{name: getattr(self, name) for name in _PARAMETERS},
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._described().items())})"

    def __str__(self) -> str:
        lines = "\n".join(f"{k}: {v!r}" for k, v in self._described().items())
        return f"<{type(self).__module__}.{type(self).__name__}>\n{lines}"


def _unpacked(data: Any) -> tuple[Any, Any, Any]:
    """Return the pixels of `data`, its mask if it is a masked array, and its unit."""
    unit = getattr(data, "unit", None) if isinstance(data, Quantity | NDData) else None
    if isinstance(data, Quantity):
        data = data.value
    elif isinstance(data, NDData):
        data = data.data
    hidden = np.ma.getmask(data) if isinstance(data, np.ma.MaskedArray) else None
    if isinstance(data, da.Array):
        if unit is not None:
            raise ParameterError(f"data is lazy and in {unit}, which dask arrays cannot hold; pass data.data alone")
        if isinstance(data._meta, np.ma.MaskedArray):
            data, hidden = da.ma.getdata(data), da.ma.getmaskarray(data)
    else:
        data = np.asarray(data)
    image = check_image(data)
    if not all(n > 0 for n in image.shape):
        raise InputError(
            f"data has shape {image.shape}, so there are no pixels; pass an image of known, positive shape"
        )
    return image, hidden, unit


def _mask_like(image: Any, mask: Any, name: str) -> Any:
    """Return the mask as bool, lazy as the image is; None for none."""
    if mask is None or mask is np.ma.nomask:
        return None
    mask = mask if isinstance(mask, da.Array) else np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(
            f"{name} must be a 2D array, a value for every pixel, but has {mask.ndim} axes; pass one plane"
        )
    if mask.shape != image.shape:
        raise InputError(
            f"data and {name} must have the same shape, not {image.shape} and {mask.shape}; pass masks of this image"
        )
    if isinstance(image, da.Array):
        lazy = mask.rechunk(image.chunks) if isinstance(mask, da.Array) else da.from_array(mask, chunks=image.chunks)
        return lazy.astype(bool)
    return np.asarray(mask).astype(bool, copy=False)


def _pair(name: str, value: Any, *, odd: bool = False) -> NDArray[np.int64]:
    """Return one or two sizes as two."""
    sizes = np.atleast_1d(value)
    if sizes.ndim != 1 or sizes.size not in (1, 2):
        raise ParameterError(f"{name} must have 1 or 2 elements, not {value!r}; give one size, or (y, x)")
    if sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise ParameterError(f"{name} must have integer values above 0, not {value!r}; give whole pixels or boxes")
    if odd and (sizes % 2 == 0).any():
        raise ParameterError(
            f"{name} must have an odd value for both axes, not {value!r}, to have a middle; add or take 1"
        )
    return np.broadcast_to(sizes, 2).astype(np.int64)


def _any_of(masks: list[Any]) -> Any:
    """Return the union of those masks that are there."""
    union = None
    for mask in masks:
        if mask is not None:
            union = mask if union is None else union | mask
    return union


def _check_pixels(image: NDArray[Any], left_out: NDArray[np.bool_] | None) -> None:
    """Refuse an image without a good pixel; warn of bad ones outside the masks."""
    bad = ~np.isfinite(image)
    if bad.all():
        raise InputError(
            "Input data contains all non-finite (NaN or infinity) pixels, so there is no sky; pass other data"
        )
    if (bad if left_out is None else bad > left_out).any():
        message = "Input data contains non-finite (NaN or infinity) values outside the masks; they are left out."
        warnings.warn(message, AstropyUserWarning, stacklevel=3)
    if left_out is not None and (bad | left_out).all():
        raise InputError("all pixels of data are masked, so there is no sky to measure; mask less")


def _counts(template: Patch, *, n_good: NDArray[np.int64], box: Pair) -> Patch:
    y, x = (
        np.arange(*ends) // size for ends, size in zip((template.region[:2], template.region[2:]), box, strict=True)
    )
    return template.replaced(n_good[np.ix_(y, x)])
