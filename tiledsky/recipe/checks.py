"""Thresholds of the verdict on a background, each with its reason; a recipe may set them in its table ``[checks]``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from tiledsky.recipe.parameters import Model


class Limit(Model):
    """Values from which a check warns and fails; None: never."""

    warn: float | None = Field(None, ge=0)
    fail: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Limit:
        if self.warn is not None and self.fail is not None and self.warn > self.fail:
            raise ValueError(f"warn {self.warn:g} is above fail {self.fail:g}, so it would never warn; swap them")
        return self


def _limit(warn: float, fail: float, reason: str) -> Any:
    return Field(Limit(warn=warn, fail=fail), description=reason)


class Checks(Model):
    """Limits of all checks, each with its reason.

    A value that has an error counts only where it is ``significance`` errors away from zero.
    """

    significance: float = Field(3.0, gt=0)
    scale_excess: Limit = _limit(
        2.0,
        4.0,
        (
            "largest excess of the rms of block means over the rms that noise gives, as a share of the "
            "latter: at 2 the remaining structure is 2.8 times the noise of an aperture of that size"
        ),
    )
    scale_overfit: Limit = _limit(
        0.25,
        0.4,
        (
            "largest deficit of the rms of means of blocks up to 16 px, as a share of the rms that noise "
            "gives: a background that follows noise of a scale also follows sources of that scale"
        ),
    )
    masked_bias: Limit = _limit(
        0.05,
        0.1,
        "bias of the background under masks, in units of the noise of a pixel: each pixel of a source loses it",
    )
    bright_bias: Limit = _limit(
        0.1,
        0.2,
        (
            "bias of the background under pixels more than 3 sigma above it, where sources are measured, in "
            "units of the noise"
        ),
    )
    edge_light: Limit = _limit(
        0.15,
        0.3,
        (
            "mean residual within 4 px of the masks minus the mean from 16 px on, in units of the noise: the "
            "background includes light that the masks miss"
        ),
    )
    source_bias: Limit = _limit(
        0.1, 0.2, "mean bias of the background at the sources, masked or not, in units of the noise"
    )
    flux_slope: Limit = _limit(
        0.1,
        0.2,
        (
            "rise of the bias at masked sources per decade of flux, in units of the noise: the background "
            "takes light from bright sources"
        ),
    )
    negative_area: Limit = _limit(
        1024, 2304, "area in px of the largest region below -3 sigma: noise alone gives single blocks of 256 px"
    )
    negative_significance: Limit = _limit(
        6.0,
        8.0,
        "strongest negative region, in sigma: noise alone gives 5 in a million blocks",
    )
    positive_significance: Limit = _limit(
        8.0,
        12.0,
        "strongest positive region, in sigma: sources too faint for the masks cause some",
    )
    seam: Limit = _limit(
        0.02,
        0.05,
        (
            "largest mean step across a tile edge beyond 1.5 times the largest step at other lines, in units "
            "of the noise"
        ),
    )
    mean_residual: Limit = _limit(0.1, 0.2, "mean residual of unmasked pixels, in units of the noise")
    skewness: Limit = _limit(
        0.15,
        0.3,
        (
            "skewness of the means of 4 x 4 px beyond that of pixels, of which noise keeps a quarter: light of "
            "sources below the masks, which the sky has as well"
        ),
    )
    worst_block: Limit = _limit(
        10.0,
        20.0,
        "largest deviation of a block of 16 px, in sigma: the sky is wrong there",
    )
    objects_taken: Limit = _limit(
        0.03,
        0.1,
        "share of the light of a large object above 10 sigma that is in the background, which is subtracted from it",
    )
    exposure_steps: Limit = _limit(
        0.05,
        0.1,
        (
            "steps of the residual along straight lines, rms over the lines, in units of the noise: exposures or "
            "detectors whose skies do not agree; half of the step is wrong on each side of the edge"
        ),
    )
    masked_fraction: Limit = _limit(0.8, 0.95, "masked share of the valid pixels: little sky is left to measure")
    constant_pixels: Limit = _limit(
        1e-4,
        0.005,
        (
            "share of the valid pixels that count as sky and have one value in patches: if the value means "
            "no data, give it with nodata"
        ),
    )
    no_noise: Limit = Field(
        Limit(warn=0.9),
        description=(
            "share of the blocks of 4 px without the ups and downs of noise: without noise no check in units "
            "of the noise has a meaning"
        ),
    )

    @classmethod
    def reason(cls, name: str) -> str:
        """Return the reason of a limit."""
        return str(cls.model_fields[name].description)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all checks, in order."""
        return [name for name in cls.model_fields if name != "significance"]
