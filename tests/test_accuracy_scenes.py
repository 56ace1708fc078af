"""The scenes of the accuracy families: their truth is what they say it is."""

import os
from dataclasses import replace

import numpy as np
import pytest
from astropy.modeling.models import Sersic2D
from scipy import integrate, ndimage

from tests.accuracy import footprints, kelvin, lsb, real
from tests.accuracy.families import FAMILIES, chosen_families
from tests.accuracy.measure import Estimate, figures, object_figures
from tests.accuracy.peers import masked_polynomial, source_mask
from tests.accuracy.profiles import add_sersic, convolved, moffat, sersic_end, sersic_light
from tests.accuracy.scene import LargeObject, Scene
from tests.accuracy.tables import page

SIZED = [name for name, family in FAMILIES.items() if family.group in ("survey", "kelvin")]


@pytest.mark.parametrize("name", SIZED)
def test_an_image_is_sky_light_and_noise(name):
    scene = FAMILIES[name].scene(7, 1000 if name == "galaxies" else 400)
    rest = (scene.image - scene.sky - scene.light) / scene.noise
    dark = scene.light < 0.3 * scene.noise  # elsewhere photons of the light add to the noise
    assert np.count_nonzero(dark) > 2000
    free = scene.image < scene.image.max()  # a saturated star is cut off
    assert abs(rest[free].mean()) < 5 * rest[free].std() / np.sqrt(free.sum())
    assert rest[dark].std() == pytest.approx(1.0, abs=0.02 + 3 / np.sqrt(2 * dark.sum()))
    assert scene.light.min() >= 0
    assert scene.image.dtype == np.float32


@pytest.mark.parametrize("name", ["deep", "crowded 10%", "kelvin low n 4", "kelvin + dwarf"])
def test_a_seed_is_a_scene(name):
    one, again, other = (FAMILIES[name].scene(seed, 200) for seed in (3, 3, 4))
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize(("index", "radius"), [(1.0, 6.0), (4.0, 5.0), (0.6, 9.0)])
def test_a_sersic_profile_beside_astropy(index, radius):
    y, x, flux, axis_ratio, angle = 60.3, 58.8, 500.0, 0.6, 0.7
    ours = np.zeros((121, 119))
    add_sersic(ours, [y, x, flux, radius, axis_ratio, angle], index)
    model = Sersic2D(amplitude=1.0, r_eff=radius, n=index, x_0=x, y_0=y, ellip=1 - axis_ratio, theta=angle)
    total, _ = integrate.quad(
        lambda r: 2 * np.pi * axis_ratio * r * model(x + r * np.cos(angle), y + r * np.sin(angle)), 0, 4000.0, limit=400
    )
    fine = (np.arange(11) - 5) / 11
    rows, columns = ((np.arange(n)[:, np.newaxis] + fine).ravel() for n in ours.shape)
    theirs = model(*np.meshgrid(columns, rows)).reshape(121, 11, 119, 11).mean(axis=(1, 3)) * flux / total
    v, u = np.meshgrid(np.arange(121) - y, np.arange(119) - x, indexing="ij")
    far = np.hypot(np.cos(angle) * u + np.sin(angle) * v, (np.cos(angle) * v - np.sin(angle) * u) / axis_ratio)
    away = (far < 2 * radius) & (np.hypot(u, v) > 4)
    centres = model(*np.meshgrid(np.arange(119), np.arange(121))) * flux / total
    np.testing.assert_allclose(ours[away], centres[away], rtol=1e-4)
    middle = np.hypot(u, v) < 5
    assert ours[middle].sum() == pytest.approx(theirs[middle].sum(), rel=0.02)


@pytest.mark.parametrize("index", [1.0, 4.0])
@pytest.mark.parametrize("radius", [0.8, 3.0])
def test_a_drawn_object_has_its_flux(index, radius):
    image = np.zeros((301, 301))
    add_sersic(image, [150.2, 149.7, 250.0, radius, 0.5, 1.0], index)
    assert image.sum() == pytest.approx(0.995 * 250.0, rel=1e-9)
    assert sersic_light(index, 1.0) == pytest.approx(0.5)
    assert sersic_light(index, sersic_end(index, 0.995)) == pytest.approx(0.995)
    # those at an edge lose what lies beyond
    image[:] = 0
    add_sersic(image, [-0.5, 150.0, 250.0, radius, 0.5, 0.0], index)
    assert image.sum() == pytest.approx(0.5 * 0.995 * 250.0, rel=1e-9)


def test_counts_rise_as_they_should():
    magnitude = kelvin.magnitudes(np.random.default_rng(5), 400_000)
    number, edges = np.histogram(magnitude, np.arange(25.0, 30.01, 0.5))
    slope, _ = np.polyfit(edges[:-1], np.log10(number), 1)
    assert slope == pytest.approx(0.4, abs=0.01)
    flux = lsb.power_law(np.random.default_rng(6), 200_000, lsb.COUNTS, lsb.FAINT, np.inf)
    least = lsb.FAINT * 2.0 ** np.arange(6)
    above = [np.count_nonzero(flux >= f) for f in least]
    assert np.polyfit(np.log(least), np.log(above), 1)[0] == pytest.approx(-lsb.COUNTS, abs=0.02)


def test_light_below_the_limit_of_a_search():
    rng = np.random.default_rng(8)
    sources = kelvin.catalogue(rng, (1000, 1000), "low")
    assert kelvin.undetected(sources, 1.0, 10**6, 0.0) == 0
    assert kelvin.undetected(sources, 1.0, 10**6, np.inf) == pytest.approx(sources[:, 2].sum() / 10**6)
    # the signal to noise of its rule beside that of the best filter, made of the pixels of a source
    source = np.array([50.3, 49.9, 3000.0, 2.3, 0.7, 0.3])
    image = np.zeros((101, 101))
    add_sersic(image, source, 1.0)
    best = np.sqrt(np.sum(convolved(image, moffat(kelvin.SEEING / kelvin.PIXEL, kelvin.BETA)) ** 2)) / kelvin.NOISE
    found = [kelvin.undetected(source[np.newaxis], 1.0, 1, best * share) == 0 for share in (0.97, 1.03)]
    assert found == [True, False]


def test_an_injected_object_changes_its_light_alone():
    scene = FAMILIES["kelvin + disc"].scene(9, 300)
    (disc,) = scene.objects
    change = scene.image.astype(float) - scene.without
    assert abs(np.mean(change - disc.light)) < 5 * np.std(change - disc.light) / 300
    assert disc.radii()[round(disc.y), round(disc.x)] < 0.02
    inside = np.array([disc.light[disc.radii() < r].sum() for r in (1, 2)])
    flux = kelvin.electrons(15.5)
    assert inside / flux == pytest.approx(sersic_light(1.0, [1, 2]), rel=0.02)


@pytest.mark.skipif("TILEDSKY_TEST_DATA" not in os.environ, reason="TILEDSKY_TEST_DATA is not set: no real images")
def test_a_real_galaxy_in_another_field():
    one, again, other = (FAMILIES["real face-on spiral"].scene(seed) for seed in (7, 7, 9))
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)
    (spiral,) = one.objects
    np.testing.assert_allclose(one.image - one.without.astype(float), spiral.light, atol=2e-3)
    radii = spiral.radii()
    assert spiral.light[radii < 1].sum() == pytest.approx(spiral.light.sum() / 2, rel=0.01)
    rings = [spiral.light[(radii >= k / 4) & (radii < (k + 1) / 4)].mean() for k in range(9)]
    assert np.all(np.diff(rings) < 0)  # brightest in its middle
    assert rings[-1] > -0.05  # no dark rim
    # a tool that takes a tenth of it, whatever else it does to the field
    field = np.random.default_rng(1).normal(size=one.image.shape)
    eaten = figures(one, Estimate(field + 0.1 * spiral.light), Estimate(field))
    assert (eaten["kept_2"], eaten["kept_4"]) == pytest.approx((0.9, 0.9))


def test_a_field_without_its_image(monkeypatch):
    monkeypatch.setenv("TILEDSKY_TEST_DATA", "/nowhere")
    real.read_image.cache_clear()
    with pytest.raises(real.NoData, match="is not there: set TILEDSKY_TEST_DATA to the folder of the real images"):
        FAMILIES["real spiral"].scene(7)


def _disc():
    made = LargeObject("disc", 120.0, 130.0, 20.0, 0.7, 0.4, np.zeros((250, 260)))
    made.light[:] = 10.0 * np.exp(-1.678 * made.radii())
    return made


def test_what_went_into_the_sky():
    disc, sky = _disc(), np.full((250, 260), 5.0)
    scene = Scene((sky + disc.light).astype(np.float32), sky, noise=2.0, objects=(disc,), zero=30.0)
    eaten = figures(scene, Estimate(sky + 0.25 * disc.light))
    assert (eaten["kept_2"], eaten["kept_4"]) == pytest.approx((0.75, 0.75))
    # beside the sky of the same tool without the object, its other errors do not count
    other = 0.1 * np.sin(np.arange(260.0))
    both = figures(scene, Estimate(sky + other + 0.25 * disc.light), Estimate(sky + other))
    assert both["kept_4"] == pytest.approx(0.75)
    # a sky too high by 0.05 of the noise: 0.1 mag of the light is lost where it is 11 times that
    raised = object_figures(disc, np.full(disc.light.shape, 0.1), 2.0, 30.0)
    assert raised["over"] == pytest.approx([0.05, 0.05, 0.05])
    assert raised["tenth_lost"] == pytest.approx(0.05 / (1 - 10**-0.04), rel=0.3)
    assert raised["tenth_lost_mag"] == pytest.approx(30 - 2.5 * np.log10(2.0 * raised["tenth_lost"]))
    assert "tenth_lost" not in object_figures(disc, 0.05 * disc.light, 2.0)


def test_the_masked_polynomial_follows_a_cubic_under_sources():
    y, x = np.meshgrid(np.linspace(-1, 1, 512), np.linspace(-1, 1, 512), indexing="ij")
    sky = 20.0 + y - 2 * x**3 + x * y**2
    scene = lsb.observed(np.random.default_rng(10), sky, lsb.field_light(np.random.default_rng(11), sky.shape))
    clean = replace(scene, image=(sky + np.random.default_rng(12).normal(size=sky.shape)).astype(np.float32))
    assert np.abs(masked_polynomial(clean, 3) - sky).max() < 0.05
    error = masked_polynomial(scene, 3) - sky
    assert np.abs(error).mean() < 0.05
    assert source_mask(scene)[scene.light > 5].mean() > 0.95
    assert 0 < source_mask(scene).mean() < 0.4


def test_families_by_name_beginning_and_group():
    assert chosen_families("notebook") == ["notebook"]
    assert chosen_families("crowded,deep,crowded 10%") == ["crowded 10%", "crowded 40%", "deep"]
    assert chosen_families("kelvin") == [name for name in FAMILIES if name.startswith("kelvin")]
    with pytest.raises(SystemExit, match="no family is called 'deeep', so nothing would be measured; --only takes"):
        chosen_families("deeep")


def _row(family, group, tool, seed=1, **more):
    row = {"family": family, "group": group, "tool": tool, "seed": seed, "size": 100, "tuned": False, "cpu": 1.0}
    return {**row, "noise": 2.0, "std": 0.03, "mean": -0.04, "rms": 0.05, **more}


def test_the_tables_of_a_group_leave_those_of_others_alone(tmp_path):
    file = tmp_path / "page.md"
    marks = [
        f"<!-- {group}: begin -->\nold {group}\n<!-- {group}: end -->\n" for group in ("notebooks", "survey", "kelvin")
    ]
    file.write_text("head\n" + "".join(marks) + "tail\n")
    known = {"pull": 1.5, "light_left": 0.02, "masked": 0.25}
    disc = {"name": "disc", "kept_2": 0.994, "kept_4": 0.98, "over": [0.01, 0.02, 0.03], "tenth_lost_mag": 28.04}
    rows = [_row("deep", "survey", "deep-sky", seed, **known) for seed in (1, 2)]
    rows += [_row("deep", "survey", "cubic + mask"), _row("steps", "survey", "cubic + mask", rms=0.1)]
    rows += [
        _row("kelvin low n 1", "kelvin", "deep-sky", **known),
        _row("kelvin + disc", "kelvin", "deep-sky", objects=[disc]),
    ]
    page(rows, file)
    text = file.read_text()
    assert "old notebooks" in text
    assert "old survey" not in text
    assert text.startswith("head\n<!-- notebooks: begin -->")
    assert text.endswith("<!-- kelvin: end -->\ntail\n")
    lines = text.splitlines()
    assert "| deep (2 seeds, 100 px) | 25.0 | 25.0 |" in lines
    assert "| steps (1 seed, 100 px) | - | 50.0 |" in lines
    assert "| deep | deep-sky | -20.0 | 1.50 | 10.0 | 25% | - | - | 1.0 |" in lines
    assert "| deep-sky | -0.04 ± 0.03 |" in lines
    assert "| SExtractor, published | +3.8 |" in lines
    assert "| deep-sky | 99.4 / 98.0 |" in lines
    assert "| deep-sky | +10 / +20 / +30; 28.0 |" in lines
    page(rows, file)
    assert file.read_text() == text


def test_a_mosaic_is_the_mean_of_its_exposures():
    made = footprints.mosaic("smooth", 4, 3, 400, step=2.0)
    inside = [made.bits[0] >> np.uint32(k) & 1 for k in range(4)]
    count = sum(inside)
    mean = sum(term * of for term, of in zip(made.terms, inside, strict=True)) / np.maximum(count, 1)
    np.testing.assert_allclose(made.offsets, mean, rtol=1e-12)
    np.testing.assert_allclose(made.scene.sky - made.level.sky, mean, atol=1e-12)
    assert np.array_equal(np.isfinite(made.scene.image), count > 0)
    noise = (made.scene.image - made.scene.sky - made.scene.light) * np.sqrt(count)
    dark = (count > 0) & (made.scene.light < 0.3)
    assert noise[dark].std() == pytest.approx(1.0, abs=0.03)
    assert len(np.unique(made.sets)) == len(np.unique(made.bits))
    near = made.near()
    assert not near[ndimage.distance_transform_edt(np.abs(np.gradient(made.sets.astype(float))).sum(0) == 0) > 14].any()


def test_the_rule_of_pairs_finds_the_constants_of_a_mosaic():
    made = footprints.mosaic("smooth", 4, 5, 500, step=2.0)
    off = footprints.pair_rule(made, source_mask(made.scene)) - made.offsets
    assert off[np.isfinite(made.scene.image)].std() < 0.1 < made.offsets.std()
