"""Key histogram and refinement: against numpy's sort and unique and Python's exact statistics; merging; bytes."""

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tiledsky.errors import InputError, ParameterError, RunError
from tiledsky.kernels.statistics.histogram import KeyHistogram, KeyTable, flat_bits_and_mask, values_of_keys
from tiledsky.kernels.statistics.refinement import Refinement, merged_bytes

ANY_FLOAT32 = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))


def finite_of(values):
    return values[np.isfinite(values)]


def keys_of(values):
    """Ordered keys by a rule of our own for the test: order of the sorted distinct bit patterns."""
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits < 0x80000000, bits + 0x80000000, 0xFFFFFFFF - bits)


def scene(rng, shape=(300, 400)):
    image = rng.normal(0.5, 2, shape).astype(np.float32)
    image[rng.random(shape) < 0.02] *= np.float32(1e6)
    image[:5] = np.nan
    image[10, :7] = np.inf
    image[11, :4] = -np.inf
    image[12, :9] = -0.0
    return image


@settings(deadline=None)
@given(ANY_FLOAT32)
def test_histogram_of_anything(values):
    histogram = KeyHistogram.from_values(values)
    finite = finite_of(values)
    assert histogram.n == finite.size
    assert histogram.n_nan == np.isnan(values).sum()
    assert histogram.n_infinite == np.isinf(values).sum()
    assert histogram.n_nan + histogram.n_infinite == values.size - finite.size
    bins, counts = np.unique(keys_of(finite) >> 16, return_counts=True)
    assert np.array_equal(histogram.bins, bins)
    assert np.array_equal(histogram.counts, counts)
    if finite.size:
        exact = finite.astype(float).tolist()
        assert histogram.mean() == statistics.mean(exact)
        assert histogram.std() == statistics.pstdev(exact)
        assert histogram.lowest[0] <= finite.min() <= histogram.highest[0]
        assert histogram.lowest[-1] <= finite.max() <= histogram.highest[-1]
    else:
        assert np.isnan([histogram.mean(), histogram.std()]).all()


@given(ANY_FLOAT32)
def test_keys_sort_as_values(values):
    finite = finite_of(values)
    keys = keys_of(finite)
    assert np.array_equal(values_of_keys(keys.astype(np.uint32)), finite.astype(np.float64))
    assert np.array_equal(finite[np.argsort(keys, kind="stable")], np.sort(finite, kind="stable"))


def test_mean_and_std_of_a_scene():
    image = scene(np.random.default_rng(3))
    exact = finite_of(image).astype(float).tolist()
    histogram = KeyHistogram.from_values(image)
    assert histogram.mean() == statistics.mean(exact)
    assert histogram.std() == statistics.pstdev(exact)
    assert (histogram.n_nan, histogram.n_infinite) == (5 * 400, 11)


def test_more_pixels_than_a_block(monkeypatch):
    monkeypatch.setattr("tiledsky.kernels.statistics.histogram._BLOCK", 1000)
    image = scene(np.random.default_rng(4))
    mask = np.random.default_rng(5).random(image.shape) < 0.3
    in_blocks = KeyHistogram.from_values(image, mask=mask).to_bytes()
    monkeypatch.undo()
    assert in_blocks == KeyHistogram.from_values(image, mask=mask).to_bytes()


def test_full_block_of_the_largest_low_bits():
    """2**23 + 3 pixels whose 16 low bits are all set: the packed sums use every bit they may."""
    value = np.array([0x3F80FFFF], dtype=np.uint32).view(np.float32)
    histogram = KeyHistogram.from_values(np.full(2**23 + 3, value[0]))
    n = 2**23 + 3
    assert histogram.counts.tolist() == [n]
    assert histogram.low_sums.tolist() == [n * 0xFFFF]
    assert (int(histogram.squares_high[0]) << 32) + int(histogram.squares_low[0]) == n * 0xFFFF**2
    assert histogram.std() == 0.0
    assert histogram.mean() == float(value[0])


def test_mask_leaves_pixels_out_and_input_is_untouched():
    image = scene(np.random.default_rng(6))
    mask = np.random.default_rng(7).random(image.shape) < 0.4
    before = image.tobytes()
    masked = KeyHistogram.from_values(image, mask=mask)
    assert masked.to_bytes() == KeyHistogram.from_values(image[~mask]).to_bytes()
    refined = Refinement.from_values(image, masked.bins[::5], mask=mask)
    assert refined.to_bytes() == Refinement.from_values(image[~mask], masked.bins[::5]).to_bytes()
    assert image.tobytes() == before


def test_views_equal_copies():
    image = scene(np.random.default_rng(8))
    mask = image > 1
    view, mask_view = image[3:200:2, 7:300], mask[3:200:2, 7:300]
    expected = KeyHistogram.from_values(view.copy(), mask=mask_view.copy()).to_bytes()
    assert KeyHistogram.from_values(view, mask=mask_view).to_bytes() == expected


def test_negative_zero_is_zero():
    zeros = np.array([0.0, -0.0, -0.0], dtype=np.float32)
    histogram = KeyHistogram.from_values(zeros)
    assert histogram.bins.tolist() == [0x8000]
    refined = Refinement.from_values(zeros, histogram.bins)
    assert (refined.keys.tolist(), refined.counts.tolist()) == ([0x80000000], [3])


@pytest.mark.parametrize("seed", range(3))
def test_any_split_and_order_gives_the_same_bytes(seed):
    rng = np.random.default_rng(seed)
    image = scene(rng)
    whole = KeyHistogram.from_values(image)
    bins = whole.bins[:: max(1, whole.bins.size // 90)]
    whole_refinement = Refinement.from_values(image, bins)
    rows = np.sort(rng.choice(np.arange(1, 300), 6, replace=False))
    columns = np.sort(rng.choice(np.arange(1, 400), 4, replace=False))
    tiles = [t for band in np.split(image, rows) for t in np.split(band, columns, axis=1)]
    rng.shuffle(order := np.arange(len(tiles)))
    histograms = [KeyHistogram.from_values(tiles[i]) for i in order]
    refinements = [Refinement.from_values(tiles[i], bins) for i in order]
    assert KeyHistogram.merged(histograms).to_bytes() == whole.to_bytes()
    assert Refinement.merged(refinements).to_bytes() == whole_refinement.to_bytes()
    while len(histograms) > 1:  # a random binary tree
        rng.shuffle(pair := list(range(len(histograms))))
        a, b = sorted(pair[:2])
        histograms.append(histograms[a].merge(histograms[b]))
        refinements.append(refinements[a].merge(refinements[b]))
        for items in (histograms, refinements):
            del items[b], items[a]
    assert histograms[0].to_bytes() == whole.to_bytes()
    assert refinements[0].to_bytes() == whole_refinement.to_bytes()


def test_compaction_does_not_show(monkeypatch):
    image = scene(np.random.default_rng(9), (60, 500))
    bins = KeyHistogram.from_values(image).bins[::7]
    parts = [Refinement.from_values(row, bins) for row in image]
    expected = Refinement.from_values(image, bins).to_bytes()
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._COMPACT_AT", 10)
    assert Refinement.merged(iter(parts)).to_bytes() == expected


@pytest.mark.parametrize("n_bins", [1, 40, 64])
def test_counting_and_sorting_agree(monkeypatch, n_bins):
    image = scene(np.random.default_rng(13))
    mask = np.random.default_rng(14).random(image.shape) < 0.3
    histogram = KeyHistogram.from_values(image)
    bins = histogram.bins[np.argsort(histogram.counts)[-n_bins:]]
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._PIXELS_A_DENSE_BIN", 1)
    counting = Refinement.from_values(image, bins, mask=mask).to_bytes()
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._DENSE_BINS", 0)
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._SORT_BLOCK", 1000)
    assert Refinement.from_values(image, bins, mask=mask).to_bytes() == counting


@pytest.mark.parametrize("counted", [0, 3, 128])
def test_refinements_of_many_tiles_merge_in_counters(counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In lists that are sorted, and with a counter for each key: the same, in any order."""
    tiles = np.random.default_rng(22).normal(3, 1, (30, 4000)).astype(np.float32)
    histogram = KeyHistogram.from_values(tiles)
    bins = np.sort(histogram.bins[np.argsort(histogram.counts)[-60::9]])
    whole = Refinement.from_values(tiles, bins)
    parts = [Refinement.from_values(tile, bins) for tile in tiles]
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._COMPACT_AT", 100)
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._MERGED_BINS", counted)
    assert whole.keys.size > 1000
    for order in (parts, parts[::-1], parts[7:] + parts[:7]):
        assert Refinement.merged(order).to_bytes() == whole.to_bytes()
    some = Refinement.merged(part.part(bins[2:5]) for part in parts)
    assert some.to_bytes() == Refinement.from_values(tiles, bins[2:5]).to_bytes()


def test_refinements_merge_from_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some bins at a time; and of bytes only what some bins need is unpacked."""
    monkeypatch.setattr("tiledsky.kernels.statistics.refinement._MERGED_BINS", 3)
    tiles = np.random.default_rng(23).normal(0, 1, (7, 4000)).astype(np.float32)
    histogram = KeyHistogram.from_values(tiles)
    for bins in (histogram.bins[::9], histogram.bins[5:7], histogram.bins[:0]):
        parts = [Refinement.from_values(tile, bins).to_bytes() for tile in tiles]
        whole = Refinement.from_values(tiles, bins)
        assert merged_bytes(parts[::-1]) == whole.to_bytes()
        assert merged_bytes([merged_bytes(parts[:3]), merged_bytes(parts[3:])]) == whole.to_bytes()
        for some in (bins[1:2], bins[::5], bins[:0], bins):
            found = Refinement.from_bytes(whole.to_bytes(), some)
            assert found.to_bytes() == Refinement.from_values(tiles, some).to_bytes()
        with pytest.raises(ParameterError, match="looked at other bins"):
            Refinement.from_bytes(parts[0], histogram.bins[1:3])


def test_refinement_counts_single_values():
    image = scene(np.random.default_rng(10))
    histogram = KeyHistogram.from_values(image)
    bins = histogram.bins[10:14]
    refined = Refinement.from_values(image, bins)
    keys = keys_of(finite_of(image))
    expected, counts = np.unique(keys[np.isin(keys >> 16, bins)], return_counts=True)
    assert np.array_equal(refined.keys, expected)
    assert np.array_equal(refined.counts, counts)
    assert refined.counts.sum() == histogram.counts[10:14].sum()


def test_1e12_pixels_in_one_bin():
    """Merging with itself forty times: 10**12 pixels and more, sums beyond 64 bits, still exact."""
    values = np.array([0x3F80FFFF, 0x3F80FFFE], dtype=np.uint32).view(np.float32)
    histogram = KeyHistogram.from_values(values)
    refinement = Refinement.from_values(values, histogram.bins)
    for _ in range(40):
        histogram = histogram.merge(histogram)
        refinement = refinement.merge(refinement)
    n = 2**41
    assert histogram.n == n > 10**12
    squares = (int(histogram.squares_high[0]) << 32) + int(histogram.squares_low[0])
    assert squares == n // 2 * (0xFFFF**2 + 0xFFFE**2) > 2**64
    assert histogram.mean() == statistics.mean(values.tolist())
    assert histogram.std() == statistics.pstdev(values.tolist())
    assert refinement.counts.tolist() == [2**40, 2**40]
    assert KeyHistogram.from_bytes(histogram.to_bytes()).std() == histogram.std()
    for _ in range(6):
        histogram = histogram.merge(histogram)
    with pytest.raises(RunError, match="split the image"):
        histogram.merge(histogram)


def test_bytes_round_trip():
    image = scene(np.random.default_rng(11))
    histogram = KeyHistogram.from_values(image)
    data = histogram.to_bytes()
    back = KeyHistogram.from_bytes(data)
    assert back.to_bytes() == data
    for name in ("bins", "counts", "low_sums", "squares_high", "squares_low", "n_nan", "n_infinite"):
        assert np.array_equal(getattr(back, name), getattr(histogram, name))
        assert getattr(back, name).__class__ is getattr(histogram, name).__class__
    assert back.merge(histogram).n == 2 * histogram.n
    refined = Refinement.from_values(image, histogram.bins[::9])
    back = Refinement.from_bytes(refined.to_bytes())
    assert back.to_bytes() == refined.to_bytes()
    assert np.array_equal(back.keys, refined.keys)
    assert np.array_equal(back.counts, refined.counts)


def test_empty_summaries():
    empty = np.empty((0, 5), dtype=np.float32)
    histogram = KeyHistogram.from_values(empty)
    assert KeyHistogram.from_bytes(histogram.to_bytes()).to_bytes() == KeyHistogram.merged([]).to_bytes()
    refined = Refinement.from_values(empty, [0x8000])
    assert Refinement.from_bytes(refined.to_bytes()).merge(refined).to_bytes() == refined.to_bytes()
    assert Refinement.from_values(empty, []).bins.size == 0


@pytest.mark.parametrize("kind", [KeyHistogram, Refinement])
def test_damaged_bytes_are_refused(kind):
    image = scene(np.random.default_rng(12), (20, 20))
    histogram = KeyHistogram.from_values(image)
    data = (histogram if kind is KeyHistogram else Refinement.from_values(image, histogram.bins)).to_bytes()
    with pytest.raises(InputError, match="should have"):
        kind.from_bytes(data[:-1])
    with pytest.raises(InputError, match=f"not a {kind.__name__}"):
        kind.from_bytes(b"x" + data[1:])
    with pytest.raises(InputError, match=f"not a {kind.__name__}"):
        kind.from_bytes(b"")


def test_refusals():
    image = np.zeros((4, 5), dtype=np.float32)
    with pytest.raises(ParameterError, match="native float32"):
        KeyHistogram.from_values(image.astype(np.float64))
    with pytest.raises(ParameterError, match="native float32"):
        flat_bits_and_mask(image.astype(">f4"), None)
    with pytest.raises(ParameterError, match="bool mask of that shape"):
        KeyHistogram.from_values(image, mask=np.zeros((5, 4), dtype=bool))
    with pytest.raises(ParameterError, match="bool mask of that shape"):
        Refinement.from_values(image, [0x8000], mask=np.zeros((4, 5), dtype=np.uint8))
    with pytest.raises(ParameterError, match="finite values lie in"):
        Refinement.from_values(image, [127])
    with pytest.raises(ParameterError, match="finite values lie in"):
        Refinement.from_values(image, [65408])
    with pytest.raises(ParameterError, match="in tiles"):
        Refinement.from_values(np.broadcast_to(np.float32(1), (1 << 16, 1 << 16)), [0x8000])
    with pytest.raises(ParameterError, match="different bins"):
        Refinement.from_values(image, [0x8000]).merge(Refinement.from_values(image, [0x8001]))
    with pytest.raises(ParameterError, match="at least one"):
        Refinement.merged([])


def test_a_table_is_the_histogram_of_all_that_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(12)
    parts = [rng.normal(size=n).astype(np.float32) for n in (70, 1, 900, 64, 0, 3)]
    parts[2][5:9] = np.nan, np.inf, -np.inf, -0.0
    masks = [rng.random(part.size) < 0.2 for part in parts]
    whole = KeyHistogram.from_values(np.concatenate(parts), mask=np.concatenate(masks)).to_bytes()
    for block in (1 << 23, 64, 7):
        monkeypatch.setattr("tiledsky.kernels.statistics.histogram._BLOCK", block)
        table = KeyTable()
        for part, mask in zip(parts, masks, strict=True):
            table.add(part, mask=mask)
        assert table.histogram().to_bytes() == whole
