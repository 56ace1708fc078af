"""How good a background is: measures with their errors, and a verdict.

Each measure is a module that sums up tiles (`update`) and turns the sums of all into numbers (`finalize`).
"""

from tiledsky.diagnostics.arrays import measure
from tiledsky.diagnostics.verdict import judge
from tiledsky.recipe import Checks, Limit

__all__ = ["Checks", "Limit", "judge", "measure"]
