"""Patches and map_patches: whole images as scipy filters them, any chunks, and halos that are one pixel short."""

from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from scipy import ndimage

from tiledsky.errors import PlanError
from tiledsky.geometry import Region
from tiledsky.kernels.detection.detect import detect
from tiledsky.operations import filters, masking
from tiledsky.overlap import Patch, align, call, map_patches
from tiledsky.recipe import Tier
from tiledsky.testing import assert_tile_invariant, irregular_chunkings

IMAGE = np.random.default_rng(1).normal(size=(60, 75))
SCIPY_MODES = {
    "reflect": {"mode": "reflect"},
    "extend": {"mode": "nearest"},
    "fill": {"mode": "constant", "cval": 0.0},
    "set": {"mode": "constant", "cval": 1.0},
}


def _valid_maximum(pixels, radius):
    """Maximum in valid mode, by scipy."""
    y, x = radius
    inner = (slice(y, pixels.shape[0] - y), slice(x, pixels.shape[1] - x))
    return ndimage.maximum_filter(pixels, (2 * y + 1, 2 * x + 1))[inner]


def _maximum(patch, *, radius, mode):
    return patch.apply(partial(_valid_maximum, radius=radius), radius, mode)


@pytest.mark.parametrize("mode", SCIPY_MODES)
@pytest.mark.parametrize("radius", [(0, 0), (3, 5), (20, 1), (0, 4)])
def test_map_patches_equals_scipy_on_the_whole_image_in_any_chunks(mode, radius):
    func = partial(_maximum, radius=radius, mode=mode)
    expected = ndimage.maximum_filter(IMAGE, (2 * radius[0] + 1, 2 * radius[1] + 1), **SCIPY_MODES[mode])
    result = map_patches(func, IMAGE, halo=radius, dtype=float)
    assert np.array_equal(result, expected)
    assert_tile_invariant(lambda image: map_patches(func, image, halo=radius, dtype=float, name="max"), IMAGE)


def test_chains_add_their_radii():
    def chain(patch):
        first = _maximum(patch, radius=(2, 3), mode="reflect")
        return first.apply(lambda pixels: -_valid_maximum(-pixels, (4, 1)), (4, 1), "extend")

    expected = ndimage.minimum_filter(ndimage.maximum_filter(IMAGE, (5, 7), mode="reflect"), (9, 3), mode="nearest")
    assert np.array_equal(map_patches(chain, IMAGE, halo=(6, 4), dtype=float), expected)
    assert_tile_invariant(lambda image: map_patches(chain, image, halo=(6, 4), dtype=float, name="chain"), IMAGE)
    for short in ((5, 4), (6, 3)):
        with pytest.raises(PlanError, match="halo is short"):
            assert_tile_invariant(lambda image: map_patches(chain, image, halo=short, dtype=float, name="c"), IMAGE)  # noqa: B023


@pytest.mark.parametrize("cut", irregular_chunkings((60, 75))[1:])
def test_a_ring_median_with_one_pixel_less_halo_is_refused(cut, monkeypatch):
    """Whatever way the image is cut: a halo that is read one pixel short never gives pixels."""

    def short(func, *arrays, halo, **kwargs):
        return map_patches(func, *arrays, halo=(halo[0] - 1, halo[1] - 1), **kwargs)

    build = partial(filters.ring_median, radius_in=4, width=2)
    assert_tile_invariant(build, IMAGE, chunks=[cut])
    monkeypatch.setattr(filters, "map_patches", short)
    with pytest.raises(PlanError, match="halo is short"):
        build(da.from_array(IMAGE, chunks=cut)).compute(scheduler="synchronous")


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("filters", partial(filters.smooth, sigma=1.5)),
        ("masking", partial(masking.source_mask, threshold=0.5, fwhm=2, n_pixels=4, grow=2)),
        ("masking", partial(masking.source_mask, threshold=0.5, n_pixels=2)),
        ("masking", partial(masking.tier_mask, tiers=[Tier(n_sigma=1, grow=3, grow_shape="square")])),
    ],
)
def test_the_other_builders_with_one_pixel_less_halo_are_refused(name, build, monkeypatch):
    def short(func, *arrays, halo, **kwargs):
        return map_patches(func, *arrays, halo=(halo[0] - 1, halo[1] - 1), **kwargs)

    assert_tile_invariant(build, IMAGE)
    monkeypatch.setattr({"filters": filters, "masking": masking}[name], "map_patches", short)
    with pytest.raises(PlanError, match="halo is short"):
        assert_tile_invariant(build, IMAGE, chunks=[(30, 40)])


def _pads_itself(patch, *, claimed):
    """A kernel of radius 3 that makes up what it lacks at the ends of its patch, and claims another radius."""
    return patch.replaced(_crop(ndimage.uniform_filter(patch.data, 7, mode="nearest"), patch, claimed), (claimed,) * 2)


def _crop(pixels, patch, radius):
    return Patch(pixels, patch.region, patch.shape).crop(patch.region.inner((radius, radius), patch.shape))


def test_the_invariance_check_catches_a_kernel_that_claims_one_pixel_too_little():
    def build(image, claimed):
        func = partial(_pads_itself, claimed=claimed)
        return map_patches(func, np.round(image * 64), halo=(claimed,) * 2, dtype=float, name="self_padding")

    # running sums of whole numbers are exact, so that scipy's uniform filter does not depend on where it starts
    assert np.array_equal(build(IMAGE, 3), ndimage.uniform_filter(np.round(IMAGE * 64), 7, mode="nearest"))
    for cut in irregular_chunkings(IMAGE.shape)[1:]:
        with pytest.raises(AssertionError, match="of the whole image it is"):
            assert_tile_invariant(partial(build, claimed=2), IMAGE, chunks=[cut])


def test_the_invariance_check_catches_a_kernel_whose_halo_ignores_what_it_reads():
    def build(image, halo):
        return map_patches(
            lambda p: p.replaced(ndimage.maximum_filter(p.data, 9, mode="nearest")),
            image,
            halo=halo,
            dtype=float,
            name="m",
        )

    assert_tile_invariant(partial(build, halo=(4, 4)), IMAGE)
    for halo in ((3, 4), (4, 3)):
        with pytest.raises(AssertionError, match="pixels differ"):
            assert_tile_invariant(partial(build, halo=halo), IMAGE)


def test_sources_of_n_pixels_need_n_minus_one_and_not_less():
    image = np.zeros((60, 75))
    image[30, 20:25] = 1  # five pixels in a row, across the edge of chunks at 22 or 24

    def build(image, reach):
        def found(patch):
            new = patch.replaced(detect(patch.data, 0.5, n_pixels=5))
            return new.cropped(new.region.inner((reach, reach), new.shape))

        return map_patches(found, image, halo=(reach, reach), dtype=bool, name="found")

    cuts = [(60, ((k, 75 - k))) for k in range(21, 25)]
    assert build(image, 4).sum() == 5
    assert_tile_invariant(partial(build, reach=4), image, chunks=cuts)
    with pytest.raises(AssertionError, match="pixels differ"):
        assert_tile_invariant(partial(build, reach=3), image, chunks=cuts)


def test_patches_know_which_sides_are_borders():
    patch = Patch(IMAGE[:10, 5:20], Region(0, 10, 5, 20), IMAGE.shape)
    padded = patch.padded((2, 3), "reflect")
    assert np.array_equal(padded, np.vstack([IMAGE[1::-1, 5:20], IMAGE[:10, 5:20]]))
    inside = Patch(IMAGE[3:10, 5:20], Region(3, 10, 5, 20), IMAGE.shape)
    assert inside.padded((2, 3), "fill") is inside.data
    assert inside.replaced(np.zeros((3, 9)), (2, 3)).region == (5, 8, 8, 17)


def test_patches_refuse_what_does_not_fit():
    with pytest.raises(PlanError, match="they must agree"):
        Patch(IMAGE, Region(0, 5, 0, 5), IMAGE.shape)
    patch = Patch(IMAGE[:5, :5], Region(0, 5, 0, 5), IMAGE.shape)
    assert np.array_equal(patch.cropped(Region(1, 3, 2, 5)).data, IMAGE[1:3, 2:5])
    with pytest.raises(PlanError, match="halo is short"):
        patch.crop(Region(0, 6, 0, 5))


def test_several_arrays_none_among_them_and_lazy_keywords():
    other = np.random.default_rng(2).normal(size=IMAGE.shape).astype(np.float32)

    def combine(first, nothing, second, *, offset):
        assert nothing is None
        assert first.region == second.region
        return first.replaced(first.data + second.data + offset)

    expected = IMAGE + other + 2.5
    lazily = dask.delayed(2.5)
    build = partial(map_patches, combine, halo=(4, 4), dtype=float)
    assert np.array_equal(build(IMAGE, None, other, offset=2.5), expected)
    numpy_with_lazy = build(IMAGE, None, other, offset=lazily)
    assert isinstance(numpy_with_lazy, da.Array)
    assert np.array_equal(numpy_with_lazy.compute(), expected)
    mixed = build(IMAGE, None, da.from_array(other, chunks=(20, 17)), offset=lazily)
    assert mixed.chunks == ((20, 20, 20), (17, 17, 17, 17, 7))
    assert np.array_equal(mixed.compute(), expected)


def test_nothing_is_computed_and_names_follow_from_the_work():
    def never(block):
        raise AssertionError("computed")

    image = da.map_blocks(never, chunks=((30, 30), (40, 35)), dtype=float)
    assert filters.ring_median(image, radius_in=3, width=2).dtype == float
    cut = da.from_array(IMAGE, chunks=20)
    one, same = (filters.ring_median(cut, radius_in=3, width=2) for _ in range(2))
    assert one.name == same.name
    assert one.name != filters.ring_median(cut, radius_in=3, width=3).name
    assert one.name != filters.ring_median(da.from_array(IMAGE + 1, chunks=20), radius_in=3, width=2).name


@pytest.mark.parametrize("box", [(6, 6), (10, 7), (75, 75)])
@pytest.mark.parametrize("cut", irregular_chunkings((60, 75)))
def test_align_puts_the_corners_of_chunks_on_corners_of_boxes(box, cut):
    array = da.from_array(IMAGE, chunks=cut)
    aligned = align(array, box)
    for sizes, b, n in zip(aligned.chunks, box, IMAGE.shape, strict=True):
        assert sum(sizes) == n
        assert all(size % b == 0 for size in sizes[:-1])
    largest = [max(max(c), b) for c, b in zip(array.chunks, box, strict=True)]
    assert all(max(c) <= n for c, n in zip(aligned.chunks, largest, strict=True))
    assert np.array_equal(aligned.compute(), IMAGE)
    assert align(IMAGE, box) is IMAGE


def test_call_is_lazy_only_where_an_argument_is():
    assert call(max, 1, 2) == 2
    lazy = call(max, 1, dask.delayed(2))
    assert lazy.compute() == 2
    assert call(sum, [1, dask.delayed(2)]).compute() == 3
