"""tiledsky: the sky background of astronomical mosaics of any size.

The names below are the public interface; everything is documented where it is defined. Each is imported when it is
first used: an import of all of them takes seconds, and a worker that reads a tile needs few.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Imported before the function of the same name, which the import would hide otherwise.
import tiledsky.run  # noqa: F401

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tiledsky.background import Background2D
    from tiledsky.estimate import Sky, estimate_background
    from tiledsky.filters import ring_median, smooth
    from tiledsky.masking import source_mask, tier_mask
    from tiledsky.recipe import Recipe
    from tiledsky.report import save_figures, to_imviz, write_comparison, write_report
    from tiledsky.run.result import Run, open_run
    from tiledsky.run.runner import run
    from tiledsky.simulate import Scene, simulate_scene
    from tiledsky.statistics import global_statistics
    from tiledsky.steps import IDWInterpolator, SigmaClip, Tier, ZoomInterpolator
else:
    del run

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
    "save_figures",
    "simulate_scene",
    "smooth",
    "source_mask",
    "tier_mask",
    "to_imviz",
    "write_comparison",
    "write_report",
]

#: Where the public names are defined.
_PLACES = {
    "background": ("Background2D",),
    "estimate": ("Sky", "estimate_background"),
    "filters": ("ring_median", "smooth"),
    "masking": ("source_mask", "tier_mask"),
    "recipe": ("Recipe",),
    "report": ("save_figures", "to_imviz", "write_comparison", "write_report"),
    "run.result": ("Run", "open_run"),
    "run.runner": ("run",),
    "simulate": ("Scene", "simulate_scene"),
    "statistics": ("global_statistics",),
    "steps": ("IDWInterpolator", "SigmaClip", "Tier", "ZoomInterpolator"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for place, names in _PLACES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"tiledsky.{place}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
