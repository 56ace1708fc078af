"""The mesh background of one image: the interface of photutils' ``Background2D``, on numpy or dask arrays."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import dask.array as da
import numpy as np
from astropy.stats import SigmaClip
from dask import compute
from numpy.typing import NDArray
from photutils.background import BkgIDWInterpolator, BkgZoomInterpolator, SExtractorBackground, StdBackgroundRMS

from tiledsky.arrays.photutils_objects import (
    INCLUSIVE,
    box_clip,
    box_estimator,
    box_rms_estimator,
    check_pixels,
    surface_interpolator,
    unclipped,
    union_of,
    warn_deprecated,
    whole_numbers,
)
from tiledsky.containers import float_dtype
from tiledsky.errors import ParameterError
from tiledsky.geometry import Pair
from tiledsky.images import same_kind, taken_apart
from tiledsky.operations.boxes import MeshParameters, array_box_statistics, cells_of
from tiledsky.operations.mesh import finished
from tiledsky.operations.surface import surface_pixels
from tiledsky.overlap import Patch, blank, call, map_patches
from tiledsky.recipe import ZoomInterpolator

_CLIP = SigmaClip(sigma=3.0, maxiters=10)
_PARAMETERS = (
    "fill_value",
    "exclude_percentile",
    "filter_size",
    "filter_threshold",
    "sigma_clip",
    "bkg_estimator",
    "bkg_rms_estimator",
    "n_threads",
    "interpolator",
)


class Background2D:
    """Background and background rms of an image, from clipped statistics in boxes.

    Takes the place of `photutils.background.Background2D` 3.0 and 3.1: same parameters, attributes, warnings and kinds
    of errors. It is faster, and takes dask arrays.

    Parameters
    ----------
    data : array_like, `astropy.units.Quantity`, `astropy.nddata.NDData` or dask.array.Array, (ny, nx)
        The image: anything that `tiledsky.images.taken_apart` takes; not changed. Values that are not finite are left
        out, and so are masked ones (photutils does not look at the mask of an NDData). Float images give float results
        (float32 or float64), integers float32.
    box_size : int or (int, int)
        Box in pixels, (y, x); cut to the image. Boxes at the upper and right edges may be partial.
    mask : array of bool, (ny, nx), optional
        True = left out of the statistics, as for sources and bad pixels. The background is estimated there too.
    coverage_mask : array of bool, (ny, nx), optional
        True = no data there: left out of the statistics, and `fill_value` in the results.
    fill_value : float
        For pixels of `coverage_mask`.
    exclude_percentile : float
        0 to 100. A box takes part if at least ``(1 - exclude_percentile / 100) * by * bx`` of its pixels are left
        after masks, image edge and clipping (beside photutils 3.0, as there: more than these, so that 0 excludes every
        box); 100 excludes only boxes without a pixel. Excluded boxes are filled from their neighbours.
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
    n_threads : int
        For a numpy image; the bits are the same for any number. Estimators of your own must bear threads.
    interpolator : optional
        `tiledsky.recipe.ZoomInterpolator` (the default) or `tiledsky.recipe.IDWInterpolator`, or photutils' objects of
        these names, which photutils 4 drops. A zoom of other order or mode and any other callable are called as
        photutils calls them (not for dask arrays): ``f(mesh, shape=, dtype=, box_size=)``.
    bkgrms_estimator : optional
        The name of `bkg_rms_estimator` before photutils 3.

    Attributes
    ----------
    box_size, filter_size : ndarray of 2 integers
    fill_value, exclude_percentile, filter_threshold, sigma_clip, bkg_estimator, bkg_rms_estimator, n_threads,
    interpolator
        As given, or the default.
    coverage_mask : array of bool or None

    Raises
    ------
    ParameterError, InputError
        Both are ValueErrors: a parameter without meaning, arrays that do not fit, no pixel or no box left.
    MaskTypeError
        An InputError and a TypeError: a mask that is not of bool.

    Warns
    -----
    AstropyUserWarning
        Pixels outside the masks are not finite. Not for dask arrays: it would come late, and in a worker.
    AstropyDeprecationWarning
        An interpolator of photutils, `bkgrms_estimator`, `npixels_mesh` or `npixels_map` is used.

    Notes
    -----
    A dask image is not computed: `background`, `background_rms` and `n_pixels_map` are dask arrays with its chunks,
    meshes dask arrays of one chunk, medians 0-d ones; errors about the values come when they are computed. The bits are
    those of the same numpy array, for any chunks. `plot_meshes` computes the mesh.

    Halo: none. Memory: the meshes are kept; the maps are made anew at each access, as in photutils. On the way a numpy
    image takes up to four bytes a pixel for masks, and a copy if it is not float or not in native byte order. A dask
    task holds a chunk (cut at box corners) and its masks, or the whole mesh (24 bytes a box, more while it is filled).

    Against photutils: box medians, clipping and counts are the same numbers; so are filled boxes to rounding, but where
    several tie for the last of the ten places, which share them here; means and deviations are summed in
    float64 also for float32 images. IDW weights share the last place among boxes that are equally far. The
    interpolators of tiledsky are not deprecated.
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
        n_threads: int = 1,
        interpolator: Any = None,
        bkgrms_estimator: Any = None,
    ) -> None:
        given = taken_apart(data, "data")
        image, self._unit, self._shape = given.pixels, given.unit, given.shape
        self._has_mask = mask is not None and mask is not np.ma.nomask
        self.coverage_mask = same_kind(given.mask(coverage_mask, "coverage_mask", strict=True), image)
        ignore = [same_kind(given.mask(mask, strict=True), image), self.coverage_mask, given.hidden]
        self.box_size = np.minimum(whole_numbers("box_size", box_size), self._shape)
        self.fill_value, self._fill_value = fill_value, given.number(fill_value, "fill_value")
        if not 0 <= exclude_percentile <= 100:
            raise ParameterError(
                f"exclude_percentile must be between 0 and 100, not {exclude_percentile}, percent of a box"
            )
        self.exclude_percentile = exclude_percentile
        self.filter_size = whole_numbers("filter_size", filter_size, odd=True)
        self.filter_threshold = filter_threshold
        if isinstance(n_threads, bool) or not isinstance(n_threads, int | np.integer) or n_threads < 1:
            raise ParameterError(f"n_threads must be a positive integer, not {n_threads!r}; 1 is one thread")
        self.n_threads = int(n_threads)
        if bkgrms_estimator is not None:
            warn_deprecated("'bkgrms_estimator' was deprecated; use bkg_rms_estimator instead")
            bkg_rms_estimator = bkgrms_estimator
        if isinstance(interpolator, BkgZoomInterpolator | BkgIDWInterpolator):
            warn_deprecated(
                "an object of photutils as 'interpolator' was deprecated: photutils 4 has none; use "
                "tiledsky.recipe.ZoomInterpolator or IDWInterpolator"
            )
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
                f"interpolator {self.interpolator!r} needs the whole image in memory, and a dask image is lazy; "
                "use ZoomInterpolator or IDWInterpolator"
            )
        parameters = MeshParameters(
            name=type(self).__name__,
            box_size=self._box,
            filter_size=(int(self.filter_size[0]), int(self.filter_size[1])),
            filter_threshold=given.number(filter_threshold, "filter_threshold"),
            exclude_percentile=exclude_percentile,
            clip=box_clip(sigma_clip),
            estimator=box_estimator(self.bkg_estimator),
            rms_estimator=box_rms_estimator(self.bkg_rms_estimator),
            interpolator=ZoomInterpolator() if native is None else native,
            inclusive=INCLUSIVE,
        )
        self._cells = cells_of(self._shape, parameters)
        left_out = union_of(ignore)
        if self._lazy_chunks is None:
            check_pixels(image, left_out)
        statistics = self._computed(
            array_box_statistics(self._banded(image.astype(self._dtype, copy=False)), left_out, parameters)
        )
        made = finished(statistics, parameters)
        self._mesh, self._surfaces = made.mesh, None if native is None else made.surfaces

    @property
    def _box(self) -> Pair:
        return int(self.box_size[0]), int(self.box_size[1])

    def _banded(self, image: Any) -> Any:
        """Return a numpy image as a dask array of bands of whole boxes, one a thread and more, if there are threads."""
        if self._lazy_chunks or self.n_threads == 1:
            return image
        rows = -(-self._shape[0] // (4 * self.n_threads * self._box[0])) * self._box[0]
        return da.from_array(image, chunks=(rows, -1), name=False)

    def _computed(self, value: Any) -> Any:
        """Return the value of what was made from a banded image."""
        if self._lazy_chunks or self.n_threads == 1:
            return value
        (result,) = compute(value, scheduler="threads", num_workers=self.n_threads)
        return result

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
            pixels = surface_pixels(
                self._banded(self._template),
                self._surfaces[which],
                dtype=self._dtype,
                name=("background", "background_rms")[which],
                coverage=self.coverage_mask,
                fill_value=self._fill_value,
            )
            return self._in_unit(self._computed(pixels))
        mesh = (self.background_mesh, self.background_rms_mesh)[which]
        resize: Any = self.interpolator
        resize = partial(resize, shape=self._shape, dtype=self._dtype, box_size=self.box_size)
        if isinstance(self.interpolator, BkgIDWInterpolator):
            resize = partial(resize, mesh_yxcen=self._centres(), mesh_nan_mask=self._mesh.excluded)
        pixels = np.array(resize(mesh))
        if self.coverage_mask is not None:
            pixels[self.coverage_mask] = self._fill_value
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
    def npixels_mesh(self) -> Any:
        """`n_pixels_mesh` under its name before photutils 3."""
        warn_deprecated("npixels_mesh was deprecated; use n_pixels_mesh instead")
        return self.n_pixels_mesh

    @property
    def npixels_map(self) -> Any:
        """`n_pixels_map` under its name before photutils 3."""
        warn_deprecated("npixels_map was deprecated; use n_pixels_map instead")
        return self.n_pixels_map

    @property
    def n_pixels_map(self) -> Any:
        """`n_pixels_mesh` for every pixel, (ny, nx); made anew at each access."""
        return map_patches(
            _counts,
            self._template,
            halo=(0, 0),
            dtype=np.int64,
            name="n_pixels_map",
            n_good=self._mesh.n_good,
            box=self._box,
        )

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
                outline = Rectangle(corner, bx, by, fill=False, color=color, alpha=alpha)
                outline.set(**kwargs)
                ax.add_patch(outline)

    def _described(self) -> dict[str, Any]:
        array = f"<array; shape={self._shape}>"
        given = {"mask": self._has_mask, "coverage_mask": self.coverage_mask is not None}
        return {
            "data": array,
            "box_size": self.box_size,
            **{name: array if there else None for name, there in given.items()},
            **{name: getattr(self, name) for name in _PARAMETERS},
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._described().items())})"

    def __str__(self) -> str:
        lines = "\n".join(f"{k}: {v!r}" for k, v in self._described().items())
        return f"<{type(self).__module__}.{type(self).__name__}>\n{lines}"


def _counts(template: Patch, *, n_good: NDArray[np.int64], box: Pair) -> Patch:
    y, x = (
        np.arange(*ends) // size for ends, size in zip((template.region[:2], template.region[2:]), box, strict=True)
    )
    return template.replaced(n_good[np.ix_(y, x)])
