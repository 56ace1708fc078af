"""tiledsky: the sky background of astronomical mosaics of any size.

The names below are the public interface; everything is documented where it is defined.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from tiledsky.estimate import Sky, estimate_background
from tiledsky.filters import ring_median, smooth
from tiledsky.masking import source_mask, tier_mask
from tiledsky.recipe import Recipe
from tiledsky.run.result import Run, open_run
from tiledsky.run.runner import run
from tiledsky.simulate import Scene, simulate_scene
from tiledsky.statistics import global_statistics
from tiledsky.steps import IDWInterpolator, SigmaClip, Tier, ZoomInterpolator

if TYPE_CHECKING:
    from tiledsky.background import Background2D

__all__ = [
    "Background2D",
    "IDWInterpolator",
    "Recipe",
    "Run",
    "Scene",
    "SigmaClip",
    "Sky",
    "Tier",
    "ZoomInterpolator",
    "__version__",
    "estimate_background",
    "global_statistics",
    "open_run",
    "ring_median",
    "run",
    "simulate_scene",
    "smooth",
    "source_mask",
    "tier_mask",
]


def __getattr__(name: str) -> Any:
    """Import `Background2D` when it is first used: photutils costs a second and memory that no worker needs."""
    if name == "Background2D":
        from tiledsky.background import Background2D

        return Background2D
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
