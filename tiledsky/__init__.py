"""tiledsky: the sky background of astronomical mosaics of any size.

The names below are the public interface; everything is documented where it is defined. Each is imported when it is
first used: an import of all of them takes seconds, and a worker that reads a tile needs few.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tiledsky import diagnostics
    from tiledsky.arrays.background2d import Background2D
    from tiledsky.arrays.estimate import Sky, estimate_background
    from tiledsky.arrays.light_kept import light_kept
    from tiledsky.engine.result import Run, open_run
    from tiledsky.engine.runner import run
    from tiledsky.operations.filters import ring_median, smooth
    from tiledsky.operations.masking import source_mask, tier_mask
    from tiledsky.recipe import IDWInterpolator, Recipe, SigmaClip, Tier, ZoomInterpolator
    from tiledsky.report import save_figures, to_imviz, write_comparison, write_report
    from tiledsky.simulate import Scene, simulate_scene
    from tiledsky.statistics import global_statistics
    from tiledsky.workflows.advise import advise

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
    "advise",
    "diagnostics",
    "estimate_background",
    "global_statistics",
    "light_kept",
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
    "arrays.background2d": ("Background2D",),
    "arrays.estimate": ("Sky", "estimate_background"),
    "arrays.light_kept": ("light_kept",),
    "engine.result": ("Run", "open_run"),
    "engine.runner": ("run",),
    "operations.filters": ("ring_median", "smooth"),
    "operations.masking": ("source_mask", "tier_mask"),
    "recipe": ("IDWInterpolator", "Recipe", "SigmaClip", "Tier", "ZoomInterpolator"),
    "report": ("save_figures", "to_imviz", "write_comparison", "write_report"),
    "simulate": ("Scene", "simulate_scene"),
    "statistics": ("global_statistics",),
    "workflows.advise": ("advise",),
}
#: Rooms that are public as they are.
_ROOMS = ("diagnostics",)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _ROOMS:
        return import_module(f"tiledsky.{name}")
    for place, names in _PLACES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"tiledsky.{place}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
