"""Scenes, clips and comparisons that the tests of Background2D share."""

from __future__ import annotations

import warnings

import numpy as np
import scipy
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyDeprecationWarning, AstropyUserWarning
from photutils import background as reference

from tests.kernels.oracles import drawn_out
from tiledsky.arrays.background2d import Background2D


def scene(shape=(123, 141), *, pedestal=10.0, seed=1):
    """Noise of rms 1 on a gradient, with sources."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(pedestal, 1.0, shape) + 0.02 * x + 0.01 * y
    for _ in range(image.size // 1500):
        y0, x0, peak = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.exponential(30.0)
        image += peak * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / 8.0)
    return image


def planes(shape=(123, 141), *, seed=2):
    """An image with NaN and infinite pixels, a mask with a hole larger than any box, and a coverage mask."""
    rng = np.random.default_rng(seed)
    image = scene(shape, seed=seed)
    for value in (np.nan, np.inf, -np.inf):
        image[rng.random(shape) < 0.01] = value
    mask = rng.random(shape) < 0.05
    mask[40:80, 50:90] = True
    y, x = np.indices(shape)
    return image, mask, x + 2 * y < 60


class MirroredZoom(reference.BkgZoomInterpolator):
    """Photutils' default on a mesh drawn out by its own mirror image, and cut again.

    Before 1.18 scipy started the spline wrong along axes of a few boxes (scipy gh-24550); of many boxes it is right.
    """

    def __call__(self, data, **kwargs):
        mesh, (y, x) = drawn_out(np.asarray(data))
        y, x = y * kwargs["box_size"][0], x * kwargs["box_size"][1]
        larger = {**kwargs, "shape": (kwargs["shape"][0] + y, kwargs["shape"][1] + x)}
        return super().__call__(mesh, **larger)[y:, x:]


_OLD_SCIPY = tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (1, 18)


def maps_of(bkg):
    """Background and rms of photutils' class for every pixel, without an old scipy's error."""
    if not _OLD_SCIPY:
        return bkg.background, bkg.background_rms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyDeprecationWarning)
        zoom = MirroredZoom()
    options = {"shape": bkg.n_pixels_map.shape, "dtype": bkg.background_mesh.dtype, "box_size": bkg.box_size}
    return tuple(zoom(mesh, **options) for mesh in (bkg.background_mesh, bkg.background_rms_mesh))


def theirs(*args, **kwargs):
    """Photutils' class, without its warnings about values and coming changes, nor an old scipy's error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        warnings.simplefilter("ignore", AstropyDeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # functions on boxes without a pixel
        if _OLD_SCIPY:
            kwargs.setdefault("interpolator", MirroredZoom())
        return reference.Background2D(*args, **kwargs)


def ours(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        warnings.simplefilter("ignore", AstropyDeprecationWarning)  # objects of photutils as interpolators
        return Background2D(*args, **kwargs)


def assert_same(a, b, *, exact=False, mesh_tolerance=1e-6, map_tolerance=1e-5):
    """`a` (ours) and `b`: counts equal, meshes and maps within fractions of the rms; `exact`: bits of the mesh."""
    np.testing.assert_array_equal(a.n_pixels_mesh, b.n_pixels_mesh)
    np.testing.assert_array_equal(a.n_pixels_map, b.n_pixels_map)
    assert a.n_pixels_map.dtype == a.n_pixels_mesh.dtype == np.int64
    if exact:
        np.testing.assert_array_equal(a.background_mesh, b.background_mesh)
        assert a.background_median == b.background_median
    box_rms, rms = b.background_rms_mesh, b.background_rms_median
    for name in ("background_mesh", "background_rms_mesh"):
        assert getattr(a, name).dtype == getattr(b, name).dtype.newbyteorder("=")
        assert np.max(np.abs(getattr(a, name) - getattr(b, name)) / box_rms) <= mesh_tolerance, name
    for name in ("background_median", "background_rms_median"):
        assert abs(getattr(a, name) - getattr(b, name)) <= mesh_tolerance * rms, name
    for name in ("background", "background_rms"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x.shape, x.dtype) == (y.shape, y.dtype.newbyteorder("="))
        np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
        assert np.nanmax(np.abs(x - y)) <= map_tolerance * rms, name


def nan_aware_range(values, axis=None):
    """A spread that is neither the std nor the MAD."""
    return (np.nanpercentile(values, 84, axis=axis) - np.nanpercentile(values, 16, axis=axis)) / 2


CLIPS = {
    "none": None,
    "3": SigmaClip(sigma=3.0),
    "2-once": SigmaClip(sigma=2.0, maxiters=1),
    "endless": SigmaClip(sigma=2.5, maxiters=None),
    "asymmetric": SigmaClip(sigma_lower=4.0, sigma_upper=1.5, maxiters=3),
    "one-sided": SigmaClip(sigma_lower=np.inf, sigma_upper=2.0, maxiters=5),
    "mean": SigmaClip(sigma=2.5, cenfunc="mean"),
    "mad": SigmaClip(sigma=2.5, stdfunc="mad_std"),
    "mean-mad": SigmaClip(sigma=2.5, cenfunc="mean", stdfunc="mad_std", maxiters=2),
    "grow": SigmaClip(sigma=2.5, grow=1.5),
    "callables": SigmaClip(sigma=2.5, cenfunc=np.nanmean, stdfunc=nan_aware_range, maxiters=4),
    "callables-grow": SigmaClip(sigma=3, cenfunc=np.nanmedian, stdfunc=np.nanstd, grow=2),
}


def nearest(mesh, *, shape, dtype, box_size, n_threads=1):
    """An interpolator that is a function."""
    return np.kron(np.asarray(mesh), np.ones(box_size, dtype))[: shape[0], : shape[1]]
