"""Other estimates of the sky as observers run them, each under the best of its usual settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sep
from astropy.io import fits
from astropy.stats import sigma_clip
from numpy.polynomial import legendre
from photutils.background import Background2D, SExtractorBackground
from scipy import ndimage

from tests.accuracy.scene import Image, Scene

#: Searches for the mask of all that need one: threshold in sigma on sep's own background of 64 px, growth in px. The
#: first that leaves SPARED of the image; on some crowded fields and low counts none does, and there is no mask.
SEARCHES, LEAST_PIXELS, SPARED = ((1.5, 10), (2.0, 6), (3.0, 4), (5.0, 2)), 5, 0.3
#: Most that a tool may take, in seconds of the clock.
PATIENCE = 1800


class Failed(Exception):
    """A tool gives no sky for this scene."""


def _finite(scene: Scene) -> tuple[Image, Image]:
    invalid = ~np.isfinite(scene.image)
    return np.ascontiguousarray(np.where(invalid, 0.0, scene.image), np.float32), invalid


def source_mask(scene: Scene) -> Image:
    """Pixels without data or with detected light."""
    image, invalid = _finite(scene)
    sky = sep.Background(image, mask=invalid, bw=64, bh=64, fw=3, fh=3)
    light = image - sky.back()
    sep.set_extract_pixstack(4 * image.size)
    for threshold, grown in SEARCHES:
        level = threshold * sky.globalrms
        _, labels = sep.extract(
            light, level, mask=invalid, minarea=LEAST_PIXELS, deblend_cont=1.0, segmentation_map=True
        )
        if not labels.any():
            return invalid
        mask = invalid | (ndimage.distance_transform_edt(labels == 0) <= grown)
        if mask.mean() <= 1.0 - SPARED:
            return mask
    return invalid


def masked_sep(scene: Scene, box: int) -> Image:
    """sep's background under the mask."""
    image = _finite(scene)[0]
    made = sep.Background(image, mask=source_mask(scene), bw=box, bh=box, fw=3, fh=3).back()
    if made.min() < image.min() or made.max() > image.max():
        raise Failed("sep: no box has half of its pixels left, so its sky is no number of this image")
    return made


def masked_photutils(scene: Scene, box: int) -> Image:
    """photutils' background under the mask."""
    estimator = SExtractorBackground()
    try:
        made = Background2D(
            _finite(scene)[0],
            box,
            mask=source_mask(scene),
            filter_size=3,
            exclude_percentile=90,
            bkg_estimator=estimator,
        )
    except ValueError as error:  # no box has so many pixels left
        raise Failed(str(error)) from error
    return made.background


def masked_polynomial(scene: Scene, degree: int) -> Image:
    """Polynomial of the whole image through clipped means of boxes of 32 px under the mask."""
    image, mask, box = _finite(scene)[0], source_mask(scene), 32
    rows, columns = (n // box for n in image.shape)
    if rows * columns < 4 * (degree + 1) ** 2:
        raise Failed(f"{image.shape} has too few boxes for a polynomial of degree {degree}")
    values = np.ma.masked_array(image, mask)[: rows * box, : columns * box].reshape(rows, box, columns, box)
    flat = values.transpose(0, 2, 1, 3).reshape(rows * columns, box * box)
    clipped = sigma_clip(flat, sigma=3, axis=1)
    good = clipped.count(axis=1) > 0.1 * box * box
    centres = [
        (np.arange(n) + 0.5) * 2 * box / length - 1.0 for n, length in zip((rows, columns), image.shape, strict=True)
    ]
    y, x = (part.ravel()[good] for part in np.meshgrid(*centres, indexing="ij"))
    terms = np.add.outer(np.arange(degree + 1), np.arange(degree + 1)) <= degree
    weight = np.sqrt(clipped.count(axis=1)[good])
    design = legendre.legvander2d(y, x, [degree, degree])[:, terms.ravel()] * weight[:, np.newaxis]
    found = np.zeros(terms.shape)
    found[terms] = np.linalg.lstsq(design, np.asarray(clipped.mean(axis=1)[good]) * weight, rcond=None)[0]
    return legendre.leggrid2d(*((np.arange(n) + 0.5) * 2 / n - 1.0 for n in image.shape), found)


def _command(name: str, scene: Scene, *arguments: str, output: str, hdu: int | str) -> Image:
    """Run a program on the image in a folder of its own, and read the image it leaves."""
    program = shutil.which(name)
    if program is None:
        raise Failed(f"{name} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        fits.writeto(Path(folder) / "image.fits", scene.image)
        (Path(folder) / "columns.param").write_text("NUMBER\n")  # source-extractor wants one, with no catalogue too
        command = [program, "image.fits", *arguments]
        ran = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=dict(os.environ)
        )
        if ran.returncode or not (Path(folder) / output).exists():
            raise Failed(f"{name}: {(ran.stderr or ran.stdout).strip()[-200:]}")
        return np.asarray(fits.getdata(Path(folder) / output, hdu), np.float64)


def noisechisel(scene: Scene, *options: str) -> Image:
    """NoiseChisel of Gnuastro (Akhlaghi & Ichikawa 2015, ApJS 220, 1), where it is installed."""
    arguments = ("--hdu=0", "--numthreads=1", "--output=found.fits", "--quiet", *options)
    return _command("astnoisechisel", scene, *arguments, output="found.fits", hdu="SKY")


def source_extractor(scene: Scene, box: int) -> Image:
    """SExtractor itself (Bertin & Arnouts 1996, A&AS 117, 393), where it is installed."""
    settings = {
        "CATALOG_TYPE": "NONE",
        "FILTER": "N",
        "BACK_SIZE": str(box),
        "BACK_FILTERSIZE": "3",
        "CHECKIMAGE_TYPE": "BACKGROUND",
        "CHECKIMAGE_NAME": "sky.fits",
        "VERBOSE_TYPE": "QUIET",
        "PARAMETERS_NAME": "columns.param",
    }
    arguments = ["-c", os.devnull, *(word for key, value in settings.items() for word in (f"-{key}", value))]
    return _command("source-extractor", scene, *arguments, output="sky.fits", hdu=0)


#: By the name in the tables.
PEERS: dict[str, Callable[[Scene], Any]] = {
    "sep 64 + mask": lambda scene: masked_sep(scene, 64),
    "sep 256 + mask": lambda scene: masked_sep(scene, 256),
    "photutils 64 + mask": lambda scene: masked_photutils(scene, 64),
    "cubic + mask": lambda scene: masked_polynomial(scene, 3),
    "source-extractor 64": lambda scene: source_extractor(scene, 64),
    "NoiseChisel": lambda scene: noisechisel(scene),
    "NoiseChisel tile 50": lambda scene: noisechisel(scene, "--tilesize=50,50"),
}
