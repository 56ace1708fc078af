"""How good a background is: measures with their errors, and a verdict.

Each measure is a module that ends in a `tiledsky.diagnostics.protocol.Measure`; all of them stand in `registry`.
"""

from tiledsky.diagnostics.arrays import measure
from tiledsky.diagnostics.verdict import judge, next_step, places, remarks
from tiledsky.recipe import Checks, Limit

__all__ = ["Checks", "Limit", "judge", "measure", "next_step", "places", "remarks"]
