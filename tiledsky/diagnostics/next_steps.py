"""What several checks advise where they fail; each says its own in `tiledsky.diagnostics.protocol.Check.next_step`."""

from __future__ import annotations

LOOK = "look there with `tiledsky view`"
WIDER = "grow the masks: raise grow of the tiers"
DEEPER = "add a tier of lower n_sigma, or mask the light with --user-mask"
BESIDE = f"{LOOK}; light beside it may have raised the sky: mask it with --user-mask, or try extended-light"
#: Words that name a recipe, which say nothing to those who used it.
NAMING = {
    "deep-sky": (" or a fitted recipe (deep-sky)", " or deep-sky", "--recipe deep-sky, "),
    "extended-light": (", or try extended-light",),
    "mosaic-steps": (", or give their footprints: --footprints FILE --recipe mosaic-steps",),
}
