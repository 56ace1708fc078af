"""Make the pictures of the documentation: ``python docs/figures.py [NAME ...]``, or ``make figures``.

Real images come from the folder that TILEDSKY_TEST_DATA names; a picture whose image is not there is left as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.visualization import ZScaleInterval
from matplotlib.patches import Ellipse
from numpy.typing import NDArray
from PIL import Image

import tiledsky

FOLDER = Path(__file__).parent / "figures"
DATA = Path(os.environ.get("TILEDSKY_TEST_DATA", "/none"))
#: Cells of a panel along its longer side: more would not be seen, and makes large files.
CELLS = 256


class Aperture(NamedTuple):
    """A large object: a circle about it, and the ring that is compared with it (px)."""

    name: str
    y: float
    x: float
    radius: float
    ring: tuple[float, float]


class Shown(NamedTuple):
    """What a picture shows: an image, and the recipes whose skies stand below each other."""

    image: NDArray[Any]
    recipes: Sequence[tuple[str, tiledsky.Recipe]]
    credit: str = ""
    weight: NDArray[Any] | None = None
    objects: Sequence[Aperture] = ()
    #: Bits of exposures, for recipes that ask for them.
    footprints: NDArray[np.int32] | None = None


def preset(name: str, keep: float | None = None) -> tiledsky.Recipe:
    """Return a preset, told what to keep."""
    recipe = tiledsky.Recipe.load(name)
    return recipe if keep is None else recipe.keeping(keep)


BEFORE_AND_AFTER = (("keep 0", preset("deep-sky", 0)), ("deep-sky", preset("deep-sky")))


def real(file: str, hdu: int, *, cut: tuple[slice, slice] = np.s_[:, :]) -> NDArray[Any]:
    """Return a part of a real image."""
    if not (DATA / file).is_file():
        raise FileNotFoundError(f"{file} is not in the folder that TILEDSKY_TEST_DATA names")
    with fits.open(DATA / file) as hdus:
        return np.array(hdus[hdu].data[cut], np.float32)


def scene() -> Shown:
    """The simulated sky."""
    return Shown(tiledsky.simulate_scene((600, 800), seed=4).image, [("deep-sky, keep 0", preset("deep-sky", 0))])


def field() -> Shown:
    """A field of faint galaxies from the ground."""
    image = real("gama_kidsviking_r_2600.fits", 1, cut=np.s_[900:1700, 900:1900])
    credit = "GAMA field, r: KiDS (ESO), as shipped with ProFound"
    return Shown(image, [("deep-sky", preset("deep-sky"))], credit)


def spiral() -> Shown:
    """Three galaxies in a part of a survey's image."""
    image = real("sdss_g_reprojected.fits.bz2", 0)
    objects = (
        Aperture("edge-on disc", 190, 276, 40, (90, 130)),
        Aperture("inclined spiral", 133, 161, 30, (60, 90)),
        Aperture("spiral", 97, 76, 30, (60, 75)),
    )
    return Shown(image, BEFORE_AND_AFTER, "SDSS, g", objects=objects)


def m51() -> Shown:
    """A galaxy that fills its frame."""
    recipes = [*BEFORE_AND_AFTER, ("constant", preset("constant"))]
    objects = [Aperture("M51", 256, 256, 180, (250, 340))]
    return Shown(real("m51_kpno.fits", 0), recipes, "M51, B: NOAO/KPNO", objects=objects)


def cluster() -> Shown:
    """The centre of a cluster of galaxies."""
    weight = real("hst_wfpc2_a478_drz.fits", 2)
    objects = (
        Aperture("central galaxy", 318, 310, 150, (200, 280)),
        Aperture("second galaxy", 462, 172, 40, (60, 80)),
    )
    credit = "Abell 478: HST/WFPC2, program 7337, NASA/STScI"
    return Shown(real("hst_wfpc2_a478_drz.fits", 1), BEFORE_AND_AFTER, credit, weight, objects)


def stars() -> Shown:
    """A bright star and its halo on a part of a chip."""
    cut = np.s_[600:1800, 100:1700]
    weight = real("des_241238_01.fits.fz", 3, cut=cut)
    objects = [Aperture("star", 524, 424, 100, (380, 430))]
    credit = "DES, r: DECam, NOIRLab and Fermilab"
    return Shown(real("des_241238_01.fits.fz", 1, cut=cut), BEFORE_AND_AFTER, credit, weight, objects)


def nebula() -> Shown:
    """A nebula and its stars."""
    recipes = [("deep-sky", preset("deep-sky")), ("constant", preset("constant"))]
    image = real("ztf_000655_zr_c13_q3_sci.fits", 0, cut=np.s_[1480:3080, 1000:3072])
    return Shown(image, recipes, "r, 30 s: ZTF, Palomar 48-inch, Caltech/IPAC")


def crowded() -> Shown:
    """Stars so dense that little sky is left between them."""
    recipes = [(name, preset(name)) for name in ("sextractor", "deep-sky")]
    return Shown(real("2mass_gc_k.fits", 0), recipes, "Galactic centre, K: 2MASS, UMass and IPAC/Caltech")


def steps() -> Shown:
    """Four exposures that do not agree, of the simulated sky."""
    simulated = tiledsky.simulate_scene((600, 800), seed=4, gradient=(0.2, 0.05), n_blemishes=0).image
    places = ((0, 380, 0, 520), (200, 600, 60, 600), (40, 430, 300, 800), (260, 600, 380, 800))
    covers = np.zeros((4, 600, 800), np.int32)
    for cover, (y0, y1, x0, x1) in zip(covers, places, strict=True):
        cover[y0:y1, x0:x1] = 1
    depth = covers.sum(axis=0)
    means = np.tensordot([0.12, -0.15, 0.03, -0.03], covers, 1) / np.maximum(depth, 1)
    image = np.where(depth > 0, simulated + means, np.nan).astype(np.float32)
    bits = np.tensordot([1, 2, 4, 8], covers, 1).astype(np.int32)
    recipes = [(name, preset(name)) for name in ("deep-sky", "mosaic-steps")]
    return Shown(image, recipes, footprints=bits)


PICTURES: dict[str, Callable[[], Shown]] = {
    made.__name__: made for made in (scene, field, spiral, m51, cluster, stars, nebula, crowded, steps)
}


def cells(image: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Means of blocks of an image, few enough to be shown, and their side."""
    side = -(-max(image.shape) // CELLS)
    ny, nx = (n // side for n in image.shape)
    blocks = image[: ny * side, : nx * side].reshape(ny, side, nx, side)
    with np.errstate(all="ignore"):
        return np.nanmean(np.where(np.isfinite(blocks), blocks, np.nan), axis=(1, 3)), side


def taken(shown: Shown, background: NDArray[Any], one: Aperture) -> float:
    """Background in the aperture of an object above that in the ring, over the light of the image there.

    That is the mean of the image above its median in the ring.
    """
    ny, nx = shown.image.shape
    r = np.hypot(np.arange(ny)[:, np.newaxis] - one.y, np.arange(nx) - one.x)
    valid = np.isfinite(shown.image) & (True if shown.weight is None else shown.weight > 0)
    within, ring = valid & (r < one.radius), valid & (r > one.ring[0]) & (r < one.ring[1])
    light = shown.image[within].mean(dtype=float) - np.median(shown.image[ring])
    return float((background[within].mean(dtype=float) - background[ring].mean(dtype=float)) / light)


def row(axes: Any, shown: Shown, name: str, recipe: tiledsky.Recipe) -> None:
    """Draw the image and what a recipe makes of it, and say what it takes from objects."""
    footprints = shown.footprints if recipe.footprints is not None else None
    sky = tiledsky.estimate_background(shown.image, recipe, weight=shown.weight, footprints=footprints)
    for one in shown.objects:
        print(f"  {name}: {100 * taken(shown, sky.background, one):.1f}% of the {one.name}")
    image, side = cells(shown.image)
    sky_cells, _ = cells(sky.background)
    left, _ = cells(sky.subtracted)
    low, high = ZScaleInterval().get_limits(image)
    # both at the scale of the image, so that what the sky takes is seen in it
    norm = plt.Normalize(low, high)
    level = float(np.nanmedian(sky_cells))
    about_0 = plt.Normalize(low - level, high - level)
    masked, _ = cells((sky.mask != 0).astype(np.float32))
    panels = (
        ("image", image, norm, "cividis"),
        (f"background: {name}", sky_cells, norm, "cividis"),
        ("mask, large objects", masked, plt.Normalize(0, 1), "gray_r"),
        ("image less background", left, about_0, "cividis"),
    )
    for ax, (title, what, scale, colours) in zip(axes, panels, strict=True):
        ax.imshow(what, norm=scale, cmap=colours, origin="lower", interpolation="nearest")
        ax.set_title(title, fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    for found in () if sky.objects is None else sky.objects:
        length = 4 * found["half_light_radius"] / side  # to two half-light radii on each side
        centre = (found["x"] / side, found["y"] / side)
        outline = Ellipse(centre, length, length * found["axis_ratio"], angle=found["angle"])
        outline.set(facecolor="none", edgecolor="tab:orange", linewidth=1.2)
        axes[2].add_patch(outline)
    axes[2].set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(-0.5, image.shape[0] - 0.5))


def draw(name: str) -> Path:
    """Make a picture."""
    shown = PICTURES[name]()
    rows = len(shown.recipes)
    height = 2.55 * shown.image.shape[0] / shown.image.shape[1] + 0.25
    figure, axes = plt.subplots(rows, 4, figsize=(10.4, rows * height + 0.15), squeeze=False, layout="constrained")
    for line, (title, recipe) in zip(axes, shown.recipes, strict=True):
        row(line, shown, title, recipe)
    if shown.credit:
        figure.supxlabel(shown.credit, fontsize=7, x=0.995, ha="right")
    path = FOLDER / f"{name}.png"
    drawn = BytesIO()
    figure.savefig(drawn, dpi=100)
    plt.close(figure)
    # few colours: a third of the bytes, and no difference that is seen
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main(names: Sequence[str]) -> None:
    """Make the pictures that are named, or all."""
    for name in names or PICTURES:
        try:
            path = draw(name)
        except FileNotFoundError as missing:
            print(f"{name}: left as it is, {missing}")
        else:
            print(f"{path.relative_to(FOLDER.parent.parent)}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
