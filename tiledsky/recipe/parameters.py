"""The steps of a recipe and their parameters, checked by name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: Planes of an input that say which exposures each pixel is of: a number, or bits (further planes go on with them).
FOOTPRINTS = ("footprint_labels", "footprint_bits", *(f"footprint_bits_{k}" for k in range(2, 33)))
#: Names of planes that a run writes itself; no step may be called so.
PLANES = (
    *("science", "weight", "error", "dq", "coverage", "user_mask", "source_mask"),
    *("mask", "background", "background_rms", "background_error", "subtracted", "bandwidth", "object_light"),
    "footprint_offsets",
    *FOOTPRINTS,
)


def _pair(value: Any) -> Any:
    """Let 10 stand for [10, 10]."""
    return (value, value) if isinstance(value, int) else value


def _none(value: Any) -> Any:
    """Let "none" stand for None, which TOML cannot write."""
    return None if value == "none" else value


#: Largest numbers of steps, each far beyond use; what a step holds and how long it takes grows with them, so that more
#: would fill the memory or never end. A ring, kernel or growth of so many pixels, a box, a window of boxes, ...
MAX_RADIUS, MAX_BOX, MAX_WINDOW, MAX_NEIGHBORS, MAX_POWER, MAX_BANDWIDTH = 2048, 1 << 16, 99, 1000, 16.0, 20_000.0
#: Largest count of anything else, and multiple of a noise: what 64 bit integers and float64 hold; most steps.
MAX_COUNT, MAX_SIGMA, MAX_STEPS = 1 << 40, 1e9, 99
#: All of them: a number that is beyond one of these is beyond memory and time, not beyond meaning.
MAXIMA = {MAX_RADIUS, MAX_RADIUS / 2, MAX_RADIUS / 4, MAX_BOX, MAX_WINDOW, MAX_NEIGHBORS, MAX_POWER, MAX_BANDWIDTH}
MAXIMA |= {MAX_COUNT, MAX_SIGMA, MAX_STEPS}

Side = Annotated[int, Field(ge=1, le=MAX_BOX)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_pair)]
WindowSide = Annotated[int, Field(ge=1, le=MAX_WINDOW)]
Window = Annotated[tuple[WindowSide, WindowSide], BeforeValidator(_pair)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,40}$")]
Percent = Annotated[float, Field(ge=0, le=100)]
#: What stands where a pixel is left out: the weighted mean of its neighbours, or one value for the whole image.
Masked = Literal["omit", "fill"]


class Model(BaseModel):
    """Base of all parameter models: no unknown key, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SigmaClip(Model):
    """Rejection of outliers, with the meaning of `astropy.stats.SigmaClip`.

    ``maxiters = -1`` goes on until nothing changes.
    """

    sigma_lower: float = Field(3.0, gt=0, le=MAX_SIGMA)
    sigma_upper: float = Field(3.0, gt=0, le=MAX_SIGMA)
    maxiters: int = Field(10, ge=-1, le=MAX_COUNT)
    center: Literal["median", "mean"] = "median"
    spread: Literal["std", "mad_std"] = "std"

    @model_validator(mode="after")
    def _some_rounds(self) -> SigmaClip:
        if self.maxiters == 0:
            raise ValueError("maxiters 0 rejects nothing; use 1 or more, or -1 for no limit")
        return self


class InterpolatorParameters(Model):
    """Base of the parameters of interpolators; what each does is in `tiledsky.operations.interpolators`.

    ``has_bandwidths``: it is a fit, which has a bandwidth at each cell of the mesh.
    """

    has_bandwidths: ClassVar[bool] = False


class ZoomInterpolator(InterpolatorParameters):
    """Cubic spline through the mesh, as `scipy.ndimage.zoom` with ``grid_mode``; ``clip``: cut to the mesh's range."""

    kind: Literal["zoom"] = "zoom"
    clip: bool = True


class IDWInterpolator(InterpolatorParameters):
    """Shepard's inverse-distance weights ``1 / (d**power + regularization)`` of the nearest boxes not excluded.

    Boxes equally far at the last place share it (see `tiledsky.kernels.mesh.idw`).
    """

    kind: Literal["idw"] = "idw"
    n_neighbors: int = Field(10, ge=1, le=MAX_NEIGHBORS)
    power: float = Field(1.0, ge=0, le=MAX_POWER)
    regularization: float = Field(0.0, ge=0)


class LocalPolynomialInterpolator(InterpolatorParameters):
    """Local polynomial regression of the boxes, then the cubic spline through the fits.

    Nothing is filled or filtered: boxes without a value of their own do not count; ``filter_size`` is for the rms
    alone. ``order``: degree of the polynomials. ``bandwidth``: the standard deviation in pixels of the Gaussian
    weights, or "auto": fits of many bandwidths, averaged by how well each predicts boxes that it has not seen; none is
    narrower than ``bandwidth_min`` pixels, or wider than ``bandwidth_max`` (0: 36 boxes, 144
    where an objects step is masked). See `tiledsky.kernels.fit.local_polynomial`.

    ``robust_bandwidth`` (pixels, 0: off): boxes that stand out from a fit of this bandwidth count less, by rounds of
    `tiledsky.kernels.fit.robust`. It is wider than light that is no sky, as wings of sources, and narrower than the
    sky's structure.
    """

    has_bandwidths: ClassVar[bool] = True
    kind: Literal["local-polynomial"] = "local-polynomial"
    order: int = Field(4, ge=0, le=4)
    bandwidth: Annotated[float, Field(gt=0, le=MAX_BANDWIDTH)] | Literal["auto"] = "auto"
    bandwidth_min: float = Field(0.0, ge=0, le=MAX_BANDWIDTH)
    bandwidth_max: float = Field(0.0, ge=0, le=MAX_BANDWIDTH)
    robust_bandwidth: float = Field(0.0, ge=0, le=MAX_BANDWIDTH)

    @model_validator(mode="after")
    def _one_bandwidth(self) -> LocalPolynomialInterpolator:
        if self.bandwidth != "auto" and self.bandwidth_min:
            raise ValueError('bandwidth_min limits an automatic bandwidth; use bandwidth = "auto" with it')
        if self.bandwidth != "auto" and self.bandwidth_max:
            raise ValueError('bandwidth_max limits an automatic bandwidth; use bandwidth = "auto" with it')
        if 0 < self.bandwidth_max < self.bandwidth_min:
            raise ValueError(
                f"bandwidth_max {self.bandwidth_max:g} is below bandwidth_min {self.bandwidth_min:g}, so no fit is "
                "left; raise bandwidth_max"
            )
        return self


class GlobalPolynomialInterpolator(InterpolatorParameters):
    """One polynomial for the whole image, through the lowest level that many boxes have.

    ``filter_size`` is for the rms alone. ``order``: degree, less of few boxes. See `tiledsky.kernels.fit.whole`.
    """

    kind: Literal["global-polynomial"] = "global-polynomial"
    order: int = Field(2, ge=0, le=3)

    @property
    def words(self) -> str:
        """The interpolator in a few words."""
        return f"one {('value', 'plane', 'parabola', 'cubic polynomial')[self.order]} for the whole image"


AnyInterpolator = ZoomInterpolator | IDWInterpolator | LocalPolynomialInterpolator | GlobalPolynomialInterpolator
Interpolator = Annotated[AnyInterpolator, Field(discriminator="kind")]


class RingStep(Model):
    """A ring-median filter: the sky beside each pixel, blind to what is smaller than the ring.

    ``mask`` names an earlier mask step whose sources the ring does not see (a mask of what lies far above a coarse
    background makes it the clipped ring of CEERS); invalid pixels it never sees. What it does not see is left out of
    the rank (``masked = "omit"``), or counts as the biweight location of all that it sees ("fill", as CEERS does).

    ``downsample = n`` filters means of n x n pixels with a ring n times smaller and interpolates the result
    bilinearly: an approximation, biased where sources are not masked; its error is measured in `docs/ring.md`.
    """

    kind: Literal["ring"] = "ring"
    name: Name = "ring"
    radius_in: float = Field(ge=0, le=MAX_RADIUS)
    width: float = Field(gt=0, le=MAX_RADIUS)
    percentile: Percent = 50.0
    mask: str | None = None
    masked: Masked = "omit"
    downsample: int = Field(1, ge=1, le=64)
    keep: bool = False

    @property
    def words(self) -> str:
        """The step in a few words."""
        return f"ring median, radius {self.radius_in:g} px, width {self.width:g} px"

    @model_validator(mode="after")
    def _ring_left(self) -> RingStep:
        if self.downsample > 1 and self.width < self.downsample:
            raise ValueError(
                f"downsample {self.downsample} makes the ring of width {self.width:g} px thinner than one coarse "
                "pixel, so it would have gaps; use a smaller downsample"
            )
        return self


class Tier(Model):
    """One search for sources: smooth, threshold, count connected pixels, grow.

    A pixel is a source where the smoothed detection image is above ``center + n_sigma * noise``. ``center`` and
    ``noise`` are of all valid pixels of the whole image, ``noise_of`` the unsmoothed or the smoothed detection image;
    with ``noise = "local"`` the noise at a pixel is the rms map of the background step that is subtracted, or of the
    one named in the step's ``noise_map``.

    With a ``reliability`` the threshold is the lowest, from ``n_sigma`` up to three times that, at which the search of
    the negative image finds no more than ``1 - reliability`` of the pixels that the search of the image finds; where
    there is none, or the smoothed noise is skewed, the tier finds nothing (`tiledsky.operations.reliability`).
    """

    n_sigma: float = Field(ge=-MAX_SIGMA, le=MAX_SIGMA)
    fwhm: float = Field(0.0, ge=0, le=MAX_RADIUS / 2)
    sigma: float = Field(0.0, ge=0, le=MAX_RADIUS / 4)
    kernel_radius: int | None = Field(None, ge=0, le=MAX_RADIUS)
    n_pixels: int = Field(1, ge=1, le=MAX_RADIUS)
    grow: float = Field(0.0, ge=0, le=MAX_RADIUS)
    grow_shape: Literal["disc", "tophat", "square"] = "disc"
    center: Literal["zero", "sky", "mean", "median", "biweight"] = "mean"
    noise: Literal["std", "clipped_std", "mad_std", "biweight", "local"] = "clipped_std"
    noise_of: Literal["unsmoothed", "smoothed"] = "unsmoothed"
    reliability: float | None = Field(None, ge=0, le=1)

    @property
    def words(self) -> str:
        """The tier in a few words."""
        width, unit = (self.fwhm, "to") if self.fwhm else (self.sigma, "by")
        smoothed = f", smoothed {unit} {width:g} px" if width else ""
        return f"above {self.n_sigma:g} sigma{smoothed}" + (f", grown by {self.grow:g} px" if self.grow else "")

    @model_validator(mode="after")
    def _one_width(self) -> Tier:
        if self.fwhm and self.sigma:
            raise ValueError("fwhm and sigma both give the width of the Gaussian; set one of them")
        if self.noise == "local" and self.noise_of == "smoothed":
            raise ValueError(
                'a local noise map gives the noise of single pixels, not of smoothed ones; use noise_of = "unsmoothed"'
            )
        if self.reliability is not None and (self.n_sigma <= 0 or {self.noise, self.center} & {"local", "biweight"}):
            raise ValueError(
                "a tier with a reliability raises its threshold in units of one global noise; use n_sigma above "
                '0 and neither "local" nor "biweight" with it'
            )
        return self


class MaskStep(Model):
    """A source mask: each tier one bit plane, searched on the image minus the sky of an earlier step.

    Attributes
    ----------
    minus : str, optional
        That step; default: the ring or background step just before.
    mask : str, optional
        An earlier mask step: its sources are left out of statistics and search, and are part of this mask too, with the
        bits that they have there.
    cumulative : bool
        Each tier leaves out what the tiers before it found, in statistics and search.
    masked : "omit" or "fill"
        What smoothing puts where pixels are left out: the weighted mean of their neighbours, or the biweight location
        of all pixels that are not left out (as CEERS does).
    equalize : bool or "rms"
        Multiply the detection image by sqrt(weight), or divide it by the error plane, so that the noise is even; "rms"
        divides it by an rms map, and so needs no plane.
    noise_map : str, optional
        Earlier background step whose rms map is that of ``equalize = "rms"`` and the noise of tiers with ``noise =
        "local"``; default: the one that is subtracted.
    clip : SigmaClip
        Rejection for clipped centers and noise.
    """

    kind: Literal["mask"] = "mask"
    name: Name
    minus: str | None = None
    mask: str | None = None
    cumulative: bool = False
    masked: Masked = "omit"
    equalize: bool | Literal["rms"] = False
    noise_map: str | None = None
    tiers: tuple[Tier, ...] = Field(min_length=1, max_length=6)
    clip: SigmaClip = SigmaClip()
    keep: bool = False

    @property
    def words(self) -> str:
        """The step in a few words."""
        return f"source mask: {'; '.join(tier.words for tier in self.tiers)}"

    @property
    def n_bits(self) -> int:
        """Bits of the mask plane that it sets itself."""
        return len(self.tiers)

    @model_validator(mode="after")
    def _fill_first(self) -> MaskStep:
        if self.masked == "fill" and any(t.noise_of == "smoothed" for t in self.tiers):
            raise ValueError(
                'masked = "fill" needs the statistics of the unsmoothed image first; use noise_of = "unsmoothed"'
            )
        if self.masked == "fill" and any(t.reliability is not None for t in self.tiers):
            raise ValueError('reliability counts unmasked pixels; use masked = "omit" with it')
        if self.equalize and any(t.noise == "local" for t in self.tiers):
            raise ValueError('equalize already makes the noise even; use another noise than "local"')
        return self


class MeshCeiling(Model):
    """A limit for the cells of a mesh: ``sigma`` times the rms of an earlier background step above its background.

    Keeps a fine mesh from following extended light, and so from digging holes where it is subtracted.
    """

    above: str
    sigma: float = Field(3.0, ge=0, le=MAX_SIGMA)


class BackgroundStep(Model):
    """A mesh background: statistics of boxes outside the mask, filled, filtered, interpolated.

    Parameters have the meaning they have in `photutils.background.Background2D`. ``mask`` names the mask step to use
    (default: the last one before, if any); "none" uses the invalid pixels alone. ``clip = "none"``: no rejection.
    ``skewed_clip``: instead of ``clip`` where a mask with a ``reliability`` finds the noise skewed.

    Guards, all off unless set: boxes with fewer than ``min_pixels`` good pixels are excluded; a box without enough
    takes the statistics of the box 2, 4, .. 2**``grow_boxes`` times as large that holds it; cells farther than
    ``reject_sigma`` (in MAD standard deviations of all such distances) from the median of their 5 x 5 neighbourhood are
    refilled from their neighbours; ``ceiling`` cuts cells off above an earlier background.
    """

    kind: Literal["background"] = "background"
    name: Name
    box_size: Size
    filter_size: Window = (3, 3)
    filter_threshold: float | None = None
    exclude_percentile: Percent = 10.0
    clip: Annotated[SigmaClip | None, BeforeValidator(_none)] = SigmaClip()
    skewed_clip: SigmaClip | None = None
    estimator: Literal["median", "mean", "mode", "mmm", "sextractor", "biweight"] = "sextractor"
    rms_estimator: Literal["std", "mad_std", "biweight"] = "std"
    interpolator: Interpolator = ZoomInterpolator()
    min_pixels: int = Field(1, ge=1, le=MAX_COUNT)
    grow_boxes: int = Field(0, ge=0, le=4)
    reject_sigma: float | None = Field(None, gt=0, le=MAX_SIGMA)
    ceiling: MeshCeiling | None = None
    mask: str | None = None
    keep: bool = False

    @property
    def words(self) -> str:
        """The step in a few words."""
        (by, bx), given = self.box_size, self.interpolator
        how = given.words if isinstance(given, GlobalPolynomialInterpolator) else given.kind
        return f"mesh of {by} × {bx} px boxes, {self.estimator}, {how}"

    @model_validator(mode="after")
    def _odd_filter(self) -> BackgroundStep:
        if any(size % 2 == 0 for size in self.filter_size):
            raise ValueError(f"filter_size {list(self.filter_size)} has no central box; use odd sizes")
        return self
