"""The step that finds large objects, and all kinds of steps that a recipe can have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tiledsky.errors import ParameterError
from tiledsky.recipe.footprints import FootprintsStep
from tiledsky.recipe.parameters import (
    MAX_BANDWIDTH,
    BackgroundStep,
    LocalPolynomialInterpolator,
    MaskStep,
    Model,
    Name,
    RingStep,
    SigmaClip,
)

#: An angle in place of a number of pixels.
_ARCSEC = re.compile(r"(\d+\.?\d*|\.\d+) ?arcsec")


def _size(value: Any) -> Any:
    """Check a size in pixels or arcseconds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not number and not (isinstance(value, str) and _ARCSEC.fullmatch(value)):
        raise ValueError('keep is a number of pixels or a text such as "30 arcsec"')
    if number and not 0 <= value <= MAX_BANDWIDTH:
        raise ValueError(f"keep is from 0 to {MAX_BANDWIDTH:.0f} px")
    return value


class ObjectsStep(Model):
    """Large objects (galaxies, halos of stars, light between galaxies), whose light is no sky.

    Objects are found in what a stiff sky leaves of the boxes outside a mask. The step is a mask: that which it uses,
    and one bit more for the pixels that objects cover. Steps that use it, or masks that go on from it, work on the
    image minus the light of the objects' models; the models are not part of the sky.

    ``mask``: the mask step that it goes on from (default: the last one before, if any; "none": the invalid pixels
    alone). ``keep``: largest half-light radius, in pixels, of objects to be kept out of the sky (default: any that
    look like objects; 0: none, as without the step); ``"30 arcsec"`` for an image with a WCS.
    """

    kind: Literal["objects"] = "objects"
    name: Name = "objects"
    mask: str | None = None
    keep: Annotated[float | str | None, BeforeValidator(_size)] = None

    @property
    def words(self) -> str:
        """The step in a few words."""
        limit = self.keep if isinstance(self.keep, str | None) else f"{self.keep:g} px"
        kept = "" if limit is None else f", half-light radius up to {limit}"
        return f"large objects{kept}: masked, their light taken off"

    @property
    def n_bits(self) -> int:
        """Bits of the mask plane that it sets itself."""
        return 1

    @property
    def sky(self) -> BackgroundStep:
        """The stiff sky that objects are looked for in: boxes as of a fine mesh, no fit narrower than 300 px."""
        return self.sky_without(outliers=True)

    def sky_without(self, *, outliers: bool) -> BackgroundStep:
        """Return the same; ``outliers``: boxes that stand out count less, as no object is known yet."""
        law = LocalPolynomialInterpolator(
            bandwidth_min=300.0, bandwidth_max=864.0, robust_bandwidth=300.0 if outliers else 0.0
        )
        boxes = BackgroundStep(
            name="sky", box_size=(6, 6), filter_size=(9, 9), estimator="mean", exclude_percentile=90, interpolator=law
        )
        clip = SigmaClip(sigma_lower=5.0, sigma_upper=5.0)
        return boxes.model_copy(update={"name": self.name, "mask": self.mask, "skewed_clip": clip})

    def in_pixels(self, arcsec: float) -> ObjectsStep:
        """Return the step with ``keep`` in pixels, for an image with pixels of ``arcsec`` arcseconds."""
        found = _ARCSEC.fullmatch(self.keep) if isinstance(self.keep, str) else None
        if found is None:
            return self
        if (keep := float(found[1]) / arcsec) > MAX_BANDWIDTH:
            raise ParameterError(
                f"objects step {self.name!r} keeps {self.keep}, which is {keep:.0f} px of {arcsec:.3g} arcsec; "
                f"an image has room for {MAX_BANDWIDTH:.0f} px at most, so make it smaller"
            )
        return self.model_copy(update={"keep": keep})


AnyStep = RingStep | MaskStep | BackgroundStep | ObjectsStep | FootprintsStep
#: Steps that other steps can name as their mask.
AnyMask = MaskStep | ObjectsStep
Step = Annotated[AnyStep, Field(discriminator="kind")]
