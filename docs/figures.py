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
CELLS = 320


class Shown(NamedTuple):
    """What a picture shows: an image, and the recipes whose skies stand below each other."""

    image: NDArray[Any]
    recipes: Sequence[tuple[str, tiledsky.Recipe]]
    weight: NDArray[Any] | None = None
    credit: str = ""


def preset(name: str, keep: float | None = None) -> tiledsky.Recipe:
    """Return a preset, told what to keep."""
    recipe = tiledsky.Recipe.load(name)
    return recipe if keep is None else recipe.keeping(keep)


def real(file: str, hdu: int, *, cut: tuple[slice, slice] = np.s_[:, :]) -> NDArray[Any]:
    """Return a part of a real image."""
    if not (DATA / file).is_file():
        raise FileNotFoundError(f"{file} is not in the folder that TILEDSKY_TEST_DATA names")
    with fits.open(DATA / file) as hdus:
        return np.array(hdus[hdu].data[cut], np.float32)


def scene() -> Shown:
    """The simulated sky."""
    return Shown(tiledsky.simulate_scene((600, 800), seed=4).image, [("deep-sky, keep 0", preset("deep-sky", 0))])


PICTURES: dict[str, Callable[[], Shown]] = {"scene": scene}


def cells(image: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Means of blocks of an image, few enough to be shown, and their side."""
    side = -(-max(image.shape) // CELLS)
    ny, nx = (n // side for n in image.shape)
    blocks = image[: ny * side, : nx * side].reshape(ny, side, nx, side)
    with np.errstate(all="ignore"):
        return np.nanmean(np.where(np.isfinite(blocks), blocks, np.nan), axis=(1, 3)), side


def row(axes: Any, shown: Shown, name: str, recipe: tiledsky.Recipe) -> None:
    """Draw the image and what a recipe makes of it."""
    sky = tiledsky.estimate_background(shown.image, recipe, weight=shown.weight)
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
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
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
