"""Block means and bilinear interpolation against numpy and scipy; the bits of a part against those of the whole."""

import numpy as np
import pytest
from scipy import ndimage

from tiledsky.errors import InputError, ParameterError
from tiledsky.kernels.filters.blocks import block_means, expand_bilinear


def _image(shape=(37, 45), dtype="f4"):
    return np.random.default_rng(1).normal(100, 10, shape).astype(dtype)


def _blocks(image, size):
    """Every block as a flat array."""
    rows, columns = (range(0, n, size) for n in image.shape)
    return [[image[y : y + size, x : x + size].ravel() for x in columns] for y in rows]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 37, 50])
def test_means_are_those_of_numpy(dtype, size):
    image = _image(dtype=dtype)
    expected = [[block.astype("f8").mean() for block in row] for row in _blocks(image, size)]
    result = block_means(image, size)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=6e-8 if dtype == "f4" else 1e-14)


@pytest.mark.parametrize("size", [2, 5])
def test_pixels_are_added_row_by_row(size):
    """Bit for bit: cumsum adds one value after the other."""
    image = _image(dtype="f8") * 10.0 ** np.random.default_rng(2).integers(0, 9, (37, 45))
    expected = [[block.cumsum()[-1] / block.size for block in row] for row in _blocks(image, size)]
    backwards = [[block[::-1].cumsum()[-1] / block.size for block in row] for row in _blocks(image, size)]
    assert np.array_equal(block_means(image, size), expected)
    assert not np.array_equal(expected, backwards)


def test_masked_and_non_finite_pixels_are_left_out():
    image, mask = _image(), np.random.default_rng(2).random((37, 45)) < 0.5
    image[3, 4:9] = np.nan, np.inf, -np.inf, np.nan, np.inf
    mask[8:12, 12:16] = mask[36, 44:] = True  # a whole block, and a block of one pixel
    kept = np.where(mask | ~np.isfinite(image), np.nan, image).astype("f8")
    expected = np.array([[np.nanmean(b) if np.isfinite(b).any() else np.nan for b in row] for row in _blocks(kept, 4)])
    assert np.isnan(expected).sum() == 2
    np.testing.assert_allclose(block_means(image, 4, mask=mask), expected, rtol=6e-8)
    np.testing.assert_allclose(block_means(kept.astype("f4"), 4), expected, rtol=6e-8)


def test_sums_do_not_lose_small_values_or_overflow():
    image = np.full((64, 64), 16777217, "f4")  # float32 sums of these stick
    assert np.array_equal(block_means(image, 64), image[:1, :1])
    largest = np.full((8, 8), np.finfo("f4").max)
    assert np.array_equal(block_means(largest, 8), largest[:1, :1])


def _interpolated(cells, size, shape):
    """Linear interpolation by scipy, of the values and of the weights that are left."""
    there = np.isfinite(cells)
    places = np.meshgrid(*((np.arange(n) + 0.5) / size - 0.5 for n in shape), indexing="ij")
    total = ndimage.map_coordinates(np.where(there, cells, 0).astype("f8"), places, order=1, mode="nearest")
    weight = ndimage.map_coordinates(there.astype("f8"), places, order=1, mode="nearest")
    return np.divide(total, weight, out=np.full(shape, np.nan), where=weight > 1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("holes", [False, True])
def test_interpolation_is_that_of_scipy(dtype, size, holes):
    cells = _image((9, 7), dtype)
    if holes:
        cells[2:5, 3:6] = cells[0, 0] = cells[8, 2:] = np.nan
    shape = 9 * size - size // 2, 7 * size - 1 if size > 1 else 7
    expected = _interpolated(cells, size, shape)
    result = expand_bilinear(cells, size, first=(0, 0), shape=shape)
    assert result.dtype == dtype
    assert np.isnan(expected).any() == holes
    np.testing.assert_allclose(result, expected, rtol=6e-8 if dtype == "f4" else 1e-13)


def test_a_constant_comes_back_as_it_is():
    cells = np.full((5, 6), 0.1, "f4")
    cells[1, 1:4] = cells[4, 5] = np.nan
    result = expand_bilinear(cells, 13, first=(0, 0), shape=(65, 78))
    assert set(result[~np.isnan(result)].tolist()) == {float(np.float32(0.1))}


def test_an_infinite_neighbour_does_not_reach_the_centre_of_a_block():
    cells = np.array([[1, np.inf, 3], [4, 5, 6]], "f4")
    result = expand_bilinear(cells, 3, first=(0, 0), shape=(6, 9))
    assert np.array_equal(result[[1, 4, 4], [1, 4, 7]], [1, 5, 6])
    assert np.isinf(result[1, [2, 3, 4, 5, 6]]).all()


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_bits_of_a_part_are_those_of_the_whole(size):
    image, mask = _image((80, 88)), np.random.default_rng(2).random((80, 88)) < 0.4
    image[30:50, 30:50] = np.nan
    cells = block_means(image, size, mask=mask)
    pixels = expand_bilinear(cells, size, first=(0, 0), shape=image.shape)
    assert np.isnan(pixels).any()
    rng = np.random.default_rng(3)
    for _ in range(20):
        (y0, y1), (x0, x1) = (np.sort(rng.choice(n, 2, replace=False)) for n in cells.shape)
        part = np.s_[y0 * size : y1 * size, x0 * size : x1 * size]
        assert np.array_equal(block_means(image[part], size, mask=mask[part]), cells[y0:y1, x0:x1], equal_nan=True)
        # one pixel further on each side lies between a cell inside and one outside
        h, w = ((n - 1) * size for n in (y1 - y0, x1 - x0))
        if min(h, w) < 1:
            continue
        half = size // 2
        inside = expand_bilinear(cells[y0:y1, x0:x1], size, first=(half, half), shape=(h, w))
        place = np.s_[y0 * size + half : y0 * size + half + h, x0 * size + half : x0 * size + half + w]
        assert np.array_equal(inside, pixels[place], equal_nan=True)


def test_inputs_are_not_changed_and_need_no_order():
    image, mask = _image(), _image() > 105
    copies = image.copy(), mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    means = block_means(image, 3, mask=mask)
    assert np.array_equal(block_means(np.asfortranarray(image), 3, mask=np.asfortranarray(mask)), means)
    pixels = expand_bilinear(means, 3, first=(1, 2), shape=(10, 11))
    assert np.array_equal(expand_bilinear(np.asfortranarray(means), 3, first=(1, 2), shape=(10, 11)), pixels)
    assert np.array_equal(image, copies[0])
    assert np.array_equal(mask, copies[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: block_means(_image(), 0), ParameterError, "size 0"),
        (lambda: block_means(_image(), 1.5), ParameterError, r"size 1\.5"),
        (lambda: block_means(_image(dtype="i4"), 2), InputError, "int32"),
        (lambda: block_means(_image()[0], 2), InputError, r"shape \(45,\)"),
        (lambda: block_means(_image(), 2, mask=np.zeros((37, 44), bool)), InputError, r"mask of shape \(37, 44\)"),
        (lambda: block_means(_image(), 2, mask=np.zeros((37, 45))), InputError, "dtype float64"),
        (lambda: expand_bilinear(_image(), 2, first=(0, 0), shape=(75, 3)), ParameterError, "not all in"),
        (lambda: expand_bilinear(_image(), 2, first=(-1, 0), shape=(3, 3)), ParameterError, "not all in"),
        (lambda: expand_bilinear(_image(), 2, first=(0, 0), shape=(0, 3)), ParameterError, "not all in"),
        (lambda: expand_bilinear(_image(), -2, first=(0, 0), shape=(3, 3)), ParameterError, "size -2"),
        (lambda: expand_bilinear(_image((0, 3)), 2, first=(0, 0), shape=(3, 3)), InputError, r"shape \(0, 3\)"),
    ],
)
def test_what_cannot_work_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
