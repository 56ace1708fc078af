"""What a recipe takes from objects in an image at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiledsky.diagnostics.light_kept import summary
from tiledsky.diagnostics.windows import Taken, design
from tiledsky.errors import InputError
from tiledsky.geometry import Region, TileGrid
from tiledsky.images import as_float, taken_apart
from tiledsky.io.fits.wcs import for_image
from tiledsky.operations.injection import known_values, windows_of
from tiledsky.operations.nodes import Nodes
from tiledsky.overlap import is_dask_array
from tiledsky.planes import base_mask
from tiledsky.recipe import Recipe, check_footprints, check_noise


def light_kept(
    image: Any, recipe: Recipe | str, *, mask: Any = None, weight: Any = None, error: Any = None
) -> dict[str, Any]:
    """Measure how much of the light of objects a recipe takes for sky, by their size.

    Profiles of known light are put into windows of the image, and the recipe is run on these with them and without; the
    thresholds of its masks stay those of the whole image. Where the windows are follows from the shape of the image and
    its valid pixels: the numbers are those of a run (``Run.diagnostics["measures"]["light_kept"]``).

    Parameters
    ----------
    image : array_like, (ny, nx)
        As of `tiledsky.estimate_background`, in memory; any unit.
    recipe : Recipe or str
    mask : array, (ny, nx), optional
        Left out of all statistics.
    weight, error : array, (ny, nx), optional
        As of `tiledsky.estimate_background`.

    Returns
    -------
    dict
        Plain data: ``headline`` in words; ``size``, ``taken``, ``taken_error``: share of the light of objects of these
        half-light radii (px) that the background takes; ``groups``: the same for each kind of profile;
        ``not_measured``: why there are no numbers, or None.

    Raises
    ------
    InputError, ParameterError
        As of `tiledsky.estimate_background`; a dask array.

    Notes
    -----
    Takes the time of an estimate and that of up to 7 Mpix more, or 0.3 of the image, whichever is larger.
    """
    given = taken_apart(image)
    if is_dask_array(given.pixels):
        raise InputError("the image is a dask array, which is not in memory; call its compute(), or use tiledsky.run")
    recipe = for_image(recipe, None)
    science = as_float(given.blanked())
    noise = {
        "weight": given.plane(weight, "weight", power=-2, factor=True),
        "error": given.plane(error, "error", power=1),
    }
    noise = {name: plane for name, plane in noise.items() if plane is not None}
    check_noise(recipe, noise)
    check_footprints(recipe, noise)
    planes = {"science": science, "base": base_mask(science, **noise, user_mask=given.mask(mask)), **noise}
    if planes["base"].all():
        return summary(Taken().rows, "all pixels are invalid or masked")
    whole = Nodes(recipe, planes)
    whole.run()
    values = {name: whole.values[name] for name in known_values(whole.operations.all.values())}

    def cut(name: str, region: Region) -> NDArray[Any]:
        return np.ascontiguousarray(planes[name][region.slices])

    grid = TileGrid(science.shape, design(science.shape).tile)
    taken = Taken.of([windows_of(recipe, science.shape, index, planes, cut, values) for index in grid])
    return summary(taken.rows, taken.reason)
