"""What the measures of a run look like in its store, as far as pages and checks use them; other keys may be there."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: A number, or null where there is none.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)] | None
Numbers = Annotated[list[Number], Field(max_length=100_000)]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    definition: str | None = None

    @model_validator(mode="after")
    def _of_one_length(self) -> _Facts:
        """Lists of one table have one length."""
        lists = {len(v) for name in self._table if isinstance(v := getattr(self, name), list) and v}
        if len(lists) > 1:
            raise ValueError(f"{', '.join(self._table)} differ in length")
        return self

    #: Names of lists that are columns of one table.
    _table: tuple[str, ...] = ()


class Check(_Facts):
    """A line of the verdict."""

    name: str
    result: Literal["pass", "warn", "fail", "not measured"]
    value: Number = None
    error: Number = None
    warn: Number = None
    fail: Number = None
    unit: str = "1"
    reason: str = ""


class Verdict(_Facts):
    """The verdict on a sky."""

    result: Literal["pass", "warn", "fail"]
    checks: list[Check]


class Image(_Facts):
    """Facts of the image."""

    noise: Number = None
    masked_fraction: Number = None
    invalid_fraction: Number = None
    bunit: str | None = None


class OtherRatio(_Facts):
    """Noise against scale by another reckoning."""

    ratio: Numbers = []
    ratio_error: Numbers = []


class Scale(_Facts):
    """Noise against scale."""

    _table = ("widths", "ratio", "expected", "ratio_error")
    widths: Numbers = []
    ratio: Numbers = []
    expected: Numbers = []
    ratio_error: Numbers = []
    against_weights: OtherRatio | None = None
    truth: OtherRatio | None = None


class Power(_Facts):
    """Power by scale."""

    _table = ("width", "variance", "white", "error")
    width: Numbers = []
    variance: Numbers = []
    white: Numbers = []
    error: Numbers = []


class Histogram(_Facts):
    """Histogram of the residual."""

    edges: Numbers = []
    counts: Numbers = []


class Correlation(_Facts):
    """Correlation of the residual with itself."""

    _table = ("lag", "x", "y", "error")
    lag: Numbers = []
    x: Numbers = []
    y: Numbers = []
    error: Numbers = []
    length: Number = None


class Residual(_Facts):
    """The unmasked residual."""

    mean: Number = None
    mean_error: Number = None
    median: Number = None
    std: Number = None
    mad_std: Number = None
    robust_std: Number = None
    skewness: Number = None
    skewness_error: Number = None
    power: Power | None = None
    histogram: Histogram | None = None
    correlation: Correlation | None = None


class Binned(_Facts):
    """Bias by flux or size."""

    _table = ("lower", "bias", "error")
    lower: Numbers = []
    bias: Numbers = []
    error: Numbers = []


class Line(_Facts):
    """Straight line through the bias."""

    slope: Number = None
    slope_error: Number = None


class Notebook(_Facts):
    """Mean under the mask less the mean outside."""

    difference: Number = None


class Group(_Facts):
    """Bias of a group of pixels or sources."""

    name: str
    bias: Number = None
    error: Number = None
    z: Number = None
    by_flux: Binned | None = None
    by_size: Binned | None = None
    line_flux: Line | None = None
    line_size: Line | None = None
    notebook: Notebook | None = None


class Groups(_Facts):
    """A bias, by groups."""

    groups: list[Group] = []


class Value(_Facts):
    """A number with a unit."""

    value: Number = None


class Edges(_Facts):
    """Across the edge of the mask."""

    _table = ("distance", "distance_end", "n_pixels", "background", "background_error", "residual", "residual_error")
    distance: Numbers = []
    distance_end: Numbers = []
    n_pixels: Numbers = []
    background: Numbers = []
    background_error: Numbers = []
    residual: Numbers = []
    residual_error: Numbers = []
    idle_rim: Value | None = None


class Position(_Facts):
    """A place of the image, in pixels."""

    y: Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
    x: Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
    ra: Number = None
    dec: Number = None
    size: Number = None
    mean: Number = None
    area: Number = None
    significance: Number = None


class Extreme(_Facts):
    """The largest or strongest of some regions; without numbers where there is none."""

    area: Number = None
    significance: Number = None


class Strongest(_Facts):
    """The strongest of some regions."""

    strongest: Extreme | None = None


class Negative(_Facts):
    """Holes in the residual."""

    regions: list[Position] = []
    largest: Extreme | None = None
    strongest: Extreme | None = None
    positive: Strongest | None = None


class Worst(_Facts):
    """The worst regions."""

    positions: list[Position] = []


class Step(_Facts):
    """Steps at seams."""

    worst: Number = None
    fake_worst: Number = None


class Seams(_Facts):
    """What is seen of the tiles."""

    step: Step | None = None


class Fit(_Facts):
    """Facts of the fit."""

    share_at_narrowest: Number = None


class Solid(Position):
    """Where most pixels of one value are, and the value."""

    size: int
    value: str | None = None


class Constants(_Facts):
    """Pixels of one value."""

    smooth_fraction: Number = None
    fraction: Number = None
    largest: Solid | None = None


class Measures(_Facts):
    """All measures."""

    scale: Scale | None = None
    residual: Residual | None = None
    positions: Groups | None = None
    masked_bias: Groups | None = None
    edges: Edges | None = None
    negative: Negative | None = None
    worst: Worst | None = None
    constants: Constants | None = None
    seams: Seams | None = None
    fit: Fit | None = None


class Diagnostics(_Facts):
    """``run/diagnostics.json``."""

    image: Image | None = None
    measures: Measures | None = None
    verdict: Verdict | None = None
