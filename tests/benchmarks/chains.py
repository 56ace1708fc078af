"""Whole recipes in one process beside the same chains in the peers' own calls."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.kernels import Images
from tests.benchmarks.measure import Call, Case
from tests.reference_ceers import NUMBERS
from tests.reference_ceers import run_chain as run_ceers
from tests.reference_chain import run_chain
from tiledsky import estimate_background, simulate_scene

_SIDE = 1000  # the peer's IDW takes 1.2 GB there, and 4.7 GB at 2000 x 2000
_CEERS = "ceers-nircam"
_CEERS_SIDE = 500  # scipy's ring median takes half a minute a megapixel
# pixels for each source: CEERS masks all of the notebook's crowded scene
_CEERS_SPARSE = 20_000


def cases(size: int) -> list[Case]:
    """All rows, for an image of ``size`` x ``size`` pixels."""
    images = Images(size)
    return [
        Case(
            "complex-sky, whole image",
            "scipy, astropy, photutils",
            partial(_complex_sky, images),
            pixels=images.pixels,
            peer_pixels=images.corner_pixels(_SIDE),
            goal=30,
        ),
        Case(
            f"{_CEERS}, whole image",
            "scipy, astropy, photutils",
            partial(_ceers, images),
            pixels=images.pixels,
            peer_pixels=images.corner_pixels(_CEERS_SIDE),
            goal=30,
            note="few small sources, no blemishes",
        ),
    ]


def _complex_sky(images: Images) -> tuple[Call, Call]:
    image = images.image
    corner = image[images.corner(_SIDE)].copy()
    return lambda: estimate_background(image, "complex-sky"), lambda: run_chain(corner)


def _ceers(images: Images) -> tuple[Call, Call]:
    sources = images.pixels // _CEERS_SPARSE
    image = simulate_scene((images.size, images.size), seed=4, n_sources=sources, stddev_max=2.0, n_blemishes=0).image
    corner = image[images.corner(_CEERS_SIDE)].copy()
    return lambda: estimate_background(image, _CEERS), lambda: run_ceers(corner, NUMBERS[_CEERS])
