"""Measures: the same for any tiling, calibrated, and right where the truth is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import ndimage, stats

from tests.quality.scenes import unbiased
from tiledsky.diagnostics import measure, remarks
from tiledsky.diagnostics.patches import gaussian_deviate, jackknife
from tiledsky.diagnostics.sky import EDGE_BINS
from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.residual.own_mask import compact_light
from tiledsky.nodata import look_at


def noise(shape: tuple[int, int], seed: int = 1, sigma: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def without_seams(found: dict[str, Any]) -> str:
    """Measures of the planes, but those of tiles; ``light_kept`` is of the recipe."""
    measures = {k: v for k, v in found["measures"].items() if k not in ("seams", "light_kept")}
    return json.dumps({**found, "measures": measures, "verdict": None}, sort_keys=True)


def test_any_tiling_gives_the_same_bits() -> None:
    case = unbiased(3, "known", size=330)
    image = case.image.copy()
    image[100:140, 60:90] = np.nan
    weight = np.where(np.arange(330) > 40, 1.0, 4.0) * np.ones((330, 1))
    arguments: dict[str, Any] = {"rms": case.rms, "weight": weight, "truth": case.truth}
    first = without_seams(measure(image, case.background, case.mask, tile=(330, 330), **arguments))
    for tile in ((64, 128), (97, 203), (40, 330)):
        assert without_seams(measure(image, case.background, case.mask, tile=tile, **arguments)) == first


def test_white_noise_has_a_ratio_of_one_and_known_correlation_is_expected() -> None:
    white = noise((700, 640))
    flat = np.zeros_like(white)
    mask = np.random.default_rng(2).random(white.shape) < 0.2
    scale = measure(white, flat, mask)["measures"]["scale"]
    deviations = (np.array(scale["ratio"]) - 1) / np.array(scale["ratio_error"])
    assert (abs(deviations) < 3).all()
    assert scale["expected"] == pytest.approx([1] * 6, abs=0.02)
    # noise as of a drizzled image: its excess is expected
    smooth = ndimage.uniform_filter(noise((700, 640), 5), 2) * 2
    correlated = measure(smooth, flat)
    scale = correlated["measures"]["scale"]
    assert scale["ratio"][4] == pytest.approx(2, rel=0.08)
    assert scale["expected"][4] == pytest.approx(2, rel=0.05)
    assert correlated["measures"]["residual"]["correlation"]["x"][1] == pytest.approx(0.5, abs=0.02)
    assert correlated["verdict"]["result"] == "pass"


def test_expected_noise_of_an_error_plane() -> None:
    sigma = np.where(np.arange(640) < 320, 1.0, 3.0).astype(np.float32) * np.ones((512, 1), np.float32)
    image = noise(sigma.shape, 3) * sigma
    found = measure(image, np.zeros_like(image), rms=np.ones_like(sigma), error=2 * sigma)["measures"]["scale"]
    assert found["against_weights"]["source"] == "error"
    assert found["against_weights"]["ratio"][:3] == pytest.approx([0.5] * 3, rel=0.03)
    assert found["ratio"][:3] == pytest.approx([1.0] * 3, rel=0.05)  # blocks of both strengths are alike


@pytest.mark.parametrize("kind", ["found", "known", "smooth"])
def test_no_bias_is_found_where_there_is_none(kind: str) -> None:
    """Six scenes here, hundreds in docs/quality-numbers.md."""
    z = []
    for seed in range(6):
        case = unbiased(seed, kind)
        z.append(measure(case.image, case.background, case.mask)["measures"]["masked_bias"]["groups"][0]["z"])
    assert max(map(abs, z)) < 3.5
    assert abs(np.mean(z)) < 3 / np.sqrt(6)


def test_a_bias_under_masks_is_found_with_its_size() -> None:
    case = unbiased(0, "known")
    raised = case.background + 0.02 * ndimage.gaussian_filter(case.mask.astype(float), 1)
    groups = measure(case.image, raised, case.mask)["measures"]["masked_bias"]["groups"]
    truth = (raised - case.truth)[case.mask].mean() - (raised - case.truth)[~case.mask].mean()
    assert [g["name"] for g in groups] == ["all", "bright", "faint", "tier 1"]
    assert groups[0]["z"] > 10
    assert groups[0]["bias"] == pytest.approx(truth, abs=3 * groups[0]["error"] + 0.1 * truth)
    found = measure(case.image, raised, case.mask)["measures"]["positions"]["groups"]
    by_name = {g["name"]: g for g in found}
    assert by_name["masked"]["bias"] == pytest.approx(0.02, rel=0.2)
    assert abs(by_name["control"]["z"]) < 3.5


def test_distance_profile_against_scipy() -> None:
    image = noise((256, 300), 7)
    mask = np.random.default_rng(8).random(image.shape) < 0.004
    edges = measure(image, np.zeros_like(image), mask)["measures"]["edges"]
    distance = ndimage.distance_transform_edt(~mask) - 1
    for low, high, n, residual in zip(
        edges["distance"], edges["distance_end"], edges["n_pixels"], edges["residual"], strict=True
    ):
        if low >= 0 and high < EDGE_BINS[-1]:
            chosen = (distance >= low) & (distance < high) & ~mask
            assert n == chosen.sum()
            if n:
                assert residual == pytest.approx(image[chosen].astype(float).mean(), rel=1e-4, abs=1e-6)


def test_residual_moments_and_quantiles_against_scipy() -> None:
    image = np.random.default_rng(9).gamma(20, 1, (320, 320)).astype(np.float32) - 20
    found = measure(image, np.zeros_like(image), rms=np.full_like(image, image.std()))["measures"]["residual"]
    noise, state = image.std(), np.zeros(image.shape, np.uint8)
    image = image[compact_light(image / noise, state, origin=(0, 0), cells=(5, 5)) == 0]
    near = image[abs(image) <= 5 * noise].astype(float)
    assert found["skewness"] == pytest.approx(stats.skew(near), rel=1e-4)
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(near), rel=1e-3)
    for share in ("1", "16", "84", "99"):
        assert found["percentiles"][share] == pytest.approx(np.percentile(image, float(share)), rel=0.01)
    assert sum(found["histogram"]["counts"]) == image.size == found["n_pixels"]
    assert found["std"] == pytest.approx(image.std(), rel=1e-5)


def test_a_hole_is_found_where_it_is_with_its_size() -> None:
    image = noise((400, 400), 11)
    background = np.zeros_like(image)
    background[128:192, 240:288] = 0.6
    found = measure(image, background, tile=(130, 90))["measures"]
    largest = found["negative"]["largest"]
    assert largest["area"] == 64 * 48
    assert (largest["y"], largest["x"]) == (159.5, 263.5)
    assert largest["significance"] == pytest.approx(-0.6 * np.sqrt(64 * 48), rel=0.1)
    worst = found["worst"]["positions"][0]
    assert 128 <= worst["y"] < 192
    assert worst["mean"] == pytest.approx(-0.6, abs=0.25)
    apertures = found["negative"]["apertures"]
    assert apertures["scatter"] == pytest.approx(7.0, rel=0.15)  # 49 pixels of unit noise


def test_seams() -> None:
    y, x = np.mgrid[:200, :240] / 50.0
    smooth = np.sin(y) + np.cos(x)
    image = smooth + noise(smooth.shape, 12, 0.1)
    seams = measure(image, smooth, tile=(100, 80))["measures"]["seams"]
    assert seams["n_edges"] == 3 * 1 + 2 * 2
    assert seams["step"]["worst"] < 1e-4
    assert seams["step"]["rms"] == pytest.approx(seams["step"]["fake_rms"], rel=0.2)
    smooth[:, 80:160] += 0.01
    seams = measure(image, smooth, tile=(100, 80))["measures"]["seams"]
    assert seams["step"]["worst"] == pytest.approx(0.01, rel=0.02)
    assert seams["worst_edge"]["axis"] == "x"
    assert seams["worst_edge"]["position"] in (80, 160)
    assert seams["step"]["fake_worst"] < 1e-4


def test_catalogue_and_sky_coordinates() -> None:
    case = unbiased(1, "known", size=256)
    rows = [[100.0, 120.0, 5.0, 2.0], [30.0, 200.0, 9.0, 1.0]]
    found = measure(case.image, case.background, case.mask, catalogue=rows, box=5, to_sky=lambda x, y: (x + 10, y - 10))
    positions = found["measures"]["positions"]
    assert positions["source"] == "catalogue"
    assert sum(g["n"] for g in positions["groups"] if g["name"] != "control") == 2
    for place in found["measures"]["worst"]["positions"]:
        assert (place["ra"], place["dec"]) == (place["x"] + 10, place["y"] - 10)


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    values = np.random.default_rng(13).normal(3, 1, 40)
    found = jackknife(np.stack([np.ones(40), values], axis=1), lambda s: (s[..., 1] / s[..., 0])[..., None])
    assert found.value[0] == pytest.approx(values.mean())
    assert found.error[0] == pytest.approx(stats.sem(values))
    t = 3.5
    deviate = gaussian_deviate(np.array([t]), np.array([1.0]), 10)[0]
    assert stats.norm.sf(deviate) == pytest.approx(stats.t.sf(t, 9))


def test_nothing_to_measure_is_no_number() -> None:
    found = measure(np.full((40, 50), np.nan), np.zeros((40, 50)))
    assert json.loads(json.dumps(found)) == found
    assert {c["result"] for c in found["verdict"]["checks"]} <= {"not measured", "pass"}


def test_wrong_arguments() -> None:
    image = noise((80, 80))
    with pytest.raises(InputError, match=r"mask \(70, 80\) and image \(80, 80\) differ in shape"):
        measure(image, image, np.zeros((70, 80), bool))
    with pytest.raises(ParameterError, match="box 4 has no central pixel"):
        measure(image, image, box=4)


def test_pixels_of_one_value_are_named_as_before_a_run() -> None:
    """What is said of a number that fills part of an image: the same words before and after."""
    image = noise((384, 384), 15)
    image[:, :40] = -99
    found = measure(image, np.zeros_like(image))
    before = look_at(lambda region: image[region.slices], image.shape).words("m.fits")
    after = remarks(found)
    share = f"{100 * np.mean(image == -99):.3g}% of the pixels are exactly -99, "
    end = ", and count as sky; if that means no data, give --nodata -99 (Python: nodata=-99)"
    assert len(after) == 1
    assert before is not None
    assert before.startswith(f"m.fits: {share}as around pixel (y, x) = (")
    assert after[0].startswith(f"{share}most of them in rows ")
    assert before.endswith(end)
    assert after[0].endswith(end)
    image[:, :20] = 7
    several = remarks(measure(image, np.zeros_like(image)))
    assert "% of the pixels have one value each in patches, most of them in rows" in several[0]
    flat = np.zeros_like(image)
    none = remarks(measure(flat, flat, rms=flat + 1))
    assert none == ["the image shows no noise, so tests in units of it mean nothing"]


@pytest.mark.parametrize(("light", "above"), [(0.0, -0.05), (6.0, 0.2)])
def test_light_below_the_masks_makes_the_means_of_blocks_skewed_and_noise_of_few_photons_does_not(
    light: float, above: float
) -> None:
    random = np.random.default_rng(21)
    sources = np.zeros((512, 512))
    sources[tuple(random.integers(0, 512, (2, 12000)))] = light * random.pareto(1.5, 12000)
    sky = 2.0 + ndimage.gaussian_filter(sources, 1.5)
    image = random.poisson(sky).astype(np.float32)
    background = np.full_like(image, np.median(ndimage.uniform_filter(image, 5)))
    found = measure(image, background, rms=np.full_like(image, 2.0**0.5))["measures"]["residual"]
    assert found["skewness"] > 0.5
    assert found["block_skewness"] > above
    if not light:
        assert found["block_skewness"] < 0.05
