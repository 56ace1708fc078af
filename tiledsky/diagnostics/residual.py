"""Histogram and shape of the residual, correlation of its pixels, power by scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from tiledsky.diagnostics import scale
from tiledsky.diagnostics.band import Band
from tiledsky.diagnostics.curve import RESIDUAL, SCALE, Curve, Histogram, Points, Reference, errors, floats
from tiledsky.diagnostics.fields import Fields, Number, Numbers
from tiledsky.diagnostics.moments import MOMENTS, SMALL_BLOCKS, noise
from tiledsky.diagnostics.next_steps import DEEPER
from tiledsky.diagnostics.parts import Distribution
from tiledsky.diagnostics.patches import Floats, PatchSums, jackknife, number, plain, ratio
from tiledsky.diagnostics.protocol import Check, CheckValue, ImageSums, Measure, in_noise
from tiledsky.diagnostics.text import measured_text
from tiledsky.kernels.residual.cell_sums import LAGS, REACH, SMALL, WIDTHS
from tiledsky.kernels.statistics.histogram import KeyHistogram, KeyTable

#: Bins of the histogram, and how far it goes in units of the noise.
_BINS, _SPAN = 120, 6.0
_PERCENTILES = (0.1, 1, 5, 16, 50, 84, 95, 99, 99.9)

DEFINITION = (
    "image minus background of unmasked pixels, without compact light; percentiles and histogram from bins of 1/128 "
    "octave; skewness and kurtosis of the residual over the local noise within 5 of zero (of a normal distribution 0 "
    "and 0); block_skewness: skewness of the means of 4 x 4 px less a quarter of that of pixels, which noise leaves of "
    "its own; correlation of pixels along x and y, length: where it falls below 1/e; power: variance of block means "
    "between two widths"
)


class Power(Fields):
    """Power by scale."""

    table = ("width", "variance", "white", "error")
    width: Numbers = []
    variance: Numbers = []
    white: Numbers = []
    error: Numbers = []


class Counts(Fields):
    """Histogram."""

    edges: Numbers = []
    counts: Numbers = []


class Correlation(Fields):
    """Correlation of pixels by distance."""

    table = ("lag", "x", "y", "error")
    lag: Numbers = []
    x: Numbers = []
    y: Numbers = []
    error: Numbers = []
    length: Number = None


class Residual(Fields):
    """The unmasked residual."""

    mean: Number = None
    mean_error: Number = None
    median: Number = None
    std: Number = None
    robust_std: Number = None
    skewness: Number = None
    skewness_error: Number = None
    block_skewness: Number = None
    block_skewness_error: Number = None
    power: Power | None = None
    histogram: Counts | None = None
    correlation: Correlation | None = None


def add_values(band: Band, table: KeyTable) -> None:
    """Add the values of the residual in the cells of a band."""
    residual = np.ascontiguousarray(band.residual[band.inner], np.float32)
    table.add(residual, mask=band.good[band.inner] == 0)


VALUES = Distribution("residual", add_values)


def noise_of(image: ImageSums) -> float:
    """Noise of a pixel in the unit of the image; NaN where it is not known."""
    found = image.of("residual")
    return (found and found["robust_std"]) or float("nan")


def _shape(sums: Floats) -> Floats:
    """Mean, skewness, kurtosis, skewness of small blocks beyond that of the noise of pixels."""
    n, first = sums[..., 3], ratio(sums[..., 4], sums[..., 3])
    second, third, fourth = (ratio(sums[..., k], n) for k in (5, 6, 7))
    variance = second - first**2
    skew = ratio(third - 3 * first * second + 2 * first**3, variance**1.5)
    kurtosis = ratio(fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4, variance**2) - 3
    blocks, mean, square, cube = (sums[..., MOMENTS.columns + k] for k in range(4))
    mean, square, cube = (ratio(power, blocks) for power in (mean, square, cube))
    of_blocks = ratio(cube - 3 * mean * square + 2 * mean**3, (square - mean**2) ** 1.5)
    return np.stack([ratio(sums[..., 1], sums[..., 0]), skew, kurtosis, of_blocks - skew / SMALL], axis=-1)


def finalize(image: ImageSums) -> dict[str, Any]:
    """Return the measure."""
    sums, of_scale, histogram = image.sums(MOMENTS), image.sums(scale.SUMS), image.total(VALUES)
    both = np.concatenate([sums.sums, image.sums(SMALL_BLOCKS).sums], axis=-1)
    table = both.reshape(-1, both.shape[-1])
    found = jackknife(table[np.any(table != 0, axis=1)], _shape)
    quantiles = [_quantile(histogram, p / 100) for p in _PERCENTILES]
    low, median, high = quantiles[3:6]
    measure = {
        "unit": "image",
        "n_pixels": histogram.n,
        "mean": number(found.value[0]),
        "mean_error": number(found.error[0]),
        "median": number(median),
        "std": number(histogram.std()),
        "robust_std": number((high - low) / 1.9889),
        "skewness": number(found.value[1]),
        "skewness_error": number(found.error[1]),
        "kurtosis": number(found.value[2]),
        "kurtosis_error": number(found.error[2]),
        "block_skewness": number(found.value[3]),
        "block_skewness_error": number(found.error[3]),
        "percentiles": {f"{p:g}": number(q) for p, q in zip(_PERCENTILES, quantiles, strict=True)},
        "histogram": _binned(histogram, noise(sums)),
    }
    return measure | {"correlation": _correlation(sums, of_scale), "power": _power(sums, of_scale)}


def _middles(histogram: KeyHistogram) -> Floats:
    return (histogram.lowest + histogram.highest) / 2


def _quantile(histogram: KeyHistogram, share: float) -> float:
    if not histogram.n:
        return float("nan")
    k = int(np.searchsorted(histogram.prefix_counts[1:], share * histogram.n, side="left"))
    return float(_middles(histogram)[min(k, histogram.bins.size - 1)])


def _binned(histogram: KeyHistogram, sigma: float) -> dict[str, Any]:
    """Counts in even bins; what lies beyond is in the outermost. Bins of the keys are split evenly."""
    if not histogram.n or not sigma > 0:
        return {"edges": [], "counts": []}
    edges = np.linspace(-_SPAN * sigma, _SPAN * sigma, _BINS + 1)
    # share of the values below each edge, values of a key's bin spread evenly over it
    low, high = histogram.lowest, histogram.highest
    ends = np.column_stack([low, np.maximum(high, low)]).ravel()
    below = np.column_stack([histogram.prefix_counts[:-1], histogram.prefix_counts[1:]]).ravel()
    cumulative = np.rint(np.interp(edges[1:-1], ends, below.astype(np.float64))).astype(np.int64)
    counts = np.diff(np.concatenate([[0], cumulative, [histogram.n]]))
    return {"edges": plain(edges), "counts": [int(n) for n in counts]}


def _lag_tables(sums: PatchSums, of_scale: PatchSums) -> Floats:
    """Pairs and the columns of this measure side by side, a row a patch."""
    pairs = of_scale.sums[..., scale.PAIRS]
    both = np.concatenate([pairs, sums.sums], axis=-1).reshape(-1, pairs.shape[-1] + MOMENTS.columns)
    return both[np.any(both != 0, axis=1)]


def _correlation(sums: PatchSums, of_scale: PatchSums) -> dict[str, Any]:
    pairs = 2 * len(LAGS)

    def rho(table: Floats) -> Floats:
        variance = ratio(table[..., pairs + 5], table[..., pairs + 3])
        return scale.correlations(table[..., :pairs], variance)

    found = jackknife(_lag_tables(sums, of_scale), rho)
    along = {axis: [LAGS.index((d, 0) if axis == "y" else (0, d)) for d in range(1, REACH + 1)] for axis in ("x", "y")}
    values = {axis: np.concatenate([[1.0], found.value[k]]) for axis, k in along.items()}
    mean = (values["x"] + values["y"]) / 2
    return {
        "lag": list(range(REACH + 1)),
        "x": plain(values["x"]),
        "y": plain(values["y"]),
        "error": [0.0, *plain(np.maximum(found.error[along["x"]], found.error[along["y"]]))],
        "length": number(_length(mean), 4),
        "length_unit": "px",
    }


def _length(rho: Floats) -> float:
    """Lag at which the correlation falls below 1/e, between lags on a straight line; the last lag if it does not."""
    level = np.exp(-1.0)
    if not np.isfinite(rho).all():
        return float("nan")
    below = np.flatnonzero(rho < level)
    if not below.size:
        return float(len(rho) - 1)
    k = int(below[0])
    return float(k - 1 + (rho[k - 1] - level) / (rho[k - 1] - rho[k]))


def _power(sums: PatchSums, of_scale: PatchSums) -> dict[str, Any]:
    """Variance of block means between widths, from the ratios to white noise."""
    variance = noise(sums) ** 2
    widths = np.array((1, *WIDTHS), np.float64)

    def differences(table: Floats) -> Floats:
        ratios = scale.white_ratios(table) ** 2
        means = np.concatenate([np.ones((*ratios.shape[:-1], 1)), ratios], axis=-1) / widths**2 * variance
        return means[..., :-1] - means[..., 1:]

    found = jackknife(of_scale.table(scale.BLOCKS), differences)
    white = variance * (1 / widths[:-1] ** 2 - 1 / widths[1:] ** 2)
    return {
        "width": [1, *WIDTHS[:-1]],
        "width_end": list(WIDTHS),
        "variance": plain(found.value),
        "white": plain(white),
        "error": plain(found.error),
        "unit": "image^2",
    }


def _faint_light(found: Residual, _: float) -> CheckValue:
    """Skewness of small blocks: light makes it positive."""
    return in_noise(found.block_skewness and max(found.block_skewness, 0.0), found.block_skewness_error, 1.0)


def _power_figure(found: Residual) -> Curve | None:
    power = found.power
    if power is None or not power.width:
        return None
    width = floats(power.width)
    return Curve(
        name="power",
        section=SCALE,
        title="Power by scale",
        x_label="scale (px, to twice that)",
        y_label="variance",
        caption=(
            "Variance of the unmasked residual between one scale and twice that; white noise falls fourfold a step."
        ),
        alt="Variance of the residual by scale, beside that of white noise.",
        rank=1,
        points=(Points("residual", width, floats(power.variance), errors(power.error)),),
        expected=(Reference("white noise", width, floats(power.white)),) if power.white else (),
        x_scale="log2",
        y_scale="log",
        ticks=width.tolist(),
    )


def _histogram_figure(found: Residual) -> Histogram | None:
    counted = found.histogram or Counts()
    edges, counts = floats(counted.edges), floats(counted.counts)
    if counts.size < 2 or edges.size != counts.size + 1:
        return None
    gaussian = None
    if found.std:
        x = (edges[1:] + edges[:-1]) / 2
        peak = counts.sum() * np.diff(edges).mean() / (found.std * np.sqrt(2 * np.pi))
        gaussian = Reference("Gaussian", x, peak * np.exp(-0.5 * ((x - (found.median or 0.0)) / found.std) ** 2))
    said = f"mean {measured_text(found.mean, found.mean_error)}, skewness "
    said += measured_text(found.skewness, found.skewness_error)
    return Histogram(
        name="histogram",
        section=RESIDUAL,
        title="Residual pixels",
        x_label="image − background, unmasked",
        y_label="pixels",
        caption=f"A tail to the right is light of sources that the mask leaves out: {said}.",
        alt=f"Histogram of the unmasked residual: {said}.",
        rank=0,
        edges=edges,
        counts=counts,
        expected=gaussian,
    )


def _correlation_figure(found: Residual) -> Curve | None:
    known = found.correlation
    if known is None or not known.lag:
        return None
    lag, error = floats(known.lag)[1:], floats(known.error)[1:]
    length = f"{measured_text(known.length)} px"
    return Curve(
        name="correlation",
        section=RESIDUAL,
        title="Correlation of the noise",
        x_label="distance (px)",
        y_label="correlation",
        caption=(
            f"Neighbouring pixels share noise where an image was resampled; length {length}. Far out it should be 0."
        ),
        alt=f"Correlation of the residual by distance; its length is {length}.",
        rank=1,
        points=tuple(
            Points(f"along {axis}", lag + 0.08 * k, floats(rho)[1:], error if error.size else None, k)
            for k, (axis, rho) in enumerate((("x", known.x), ("y", known.y)))
        ),
        level=0,
    )


MEASURE = Measure(
    name="residual",
    definition=DEFINITION,
    fields=Residual,
    finalize=finalize,
    parts=(MOMENTS, SMALL_BLOCKS, VALUES, scale.SUMS),
    checks=(
        Check(
            "mean_residual",
            "sigma",
            lambda found, noise: in_noise(found.mean, found.mean_error, noise),
            next_step=f"light in the sky raises it: {DEEPER}",
        ),
        Check(
            "skewness",
            "1",
            _faint_light,
            next_step=f"faint sources, too crowded to be masked, are in the sky: {DEEPER}",
        ),
    ),
    figures=(_power_figure, _histogram_figure, _correlation_figure),
)
