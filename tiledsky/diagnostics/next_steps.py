"""What to try where a check of a background fails."""

from __future__ import annotations

_LOOK = "look there with `tiledsky view`"
_WIDER = "grow the masks: raise grow of the tiers"
_DEEPER = "add a tier of lower n_sigma, or mask the light with --user-mask"
_BESIDE = f"{_LOOK}; light beside it may have raised the sky: mask it with --user-mask, or try extended-light"

#: By the names of the checks, one line each.
_STEPS = {
    "scale_excess": "use a smaller box_size or a fitted recipe (deep-sky); `tiledsky advise` tries several",
    "scale_overfit": "use a larger box_size or a fitted recipe (deep-sky); `tiledsky advise` tries several",
    "masked_bias": f"{_WIDER}, or {_DEEPER}",
    "bright_bias": f"use a larger box_size, or {_DEEPER}",
    "edge_light": f"{_WIDER}, or {_DEEPER}",
    "idle_rim": "shrink the masks: lower grow of the tiers",
    "source_bias": f"use a larger box_size, or {_DEEPER}; `tiledsky inject` measures what is lost",
    "flux_slope": f"{_WIDER}, or use a larger box_size; `tiledsky inject` measures what is lost",
    "negative_area": _BESIDE,
    "negative_significance": _BESIDE,
    "positive_significance": (
        f"{_LOOK}; light that is no sky: mask it with --user-mask; sky: use a smaller box_size or deep-sky"
    ),
    "seam": "run `tiledsky verify`; if nothing is damaged, use another interpolator, and report it as a fault",
    "mean_residual": f"light in the sky raises it: {_DEEPER}",
    "skewness": f"there are sources without a mask: {_DEEPER}",
    "worst_block": f"{_LOOK}; a defect or a source: mask it with --user-mask; sky: use a smaller box_size or deep-sky",
    "masked_fraction": "raise n_sigma or lower grow of the tiers; a galaxy that fills the image: try plane or constant",
    "constant_pixels": f"{_LOOK}; if the value means no data, give it with --nodata",
    "no_noise": "measure on the image as it was observed: a smooth or simulated sky has no noise to compare with",
    "narrow_fit": "use a smaller box_size, or extended-light where large galaxies are to be kept",
}


def next_steps(name: str) -> str:
    """Return what to try where a check fails, in one line, for whoever uses the command line."""
    return _STEPS[name]
