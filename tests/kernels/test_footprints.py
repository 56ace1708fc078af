"""Terms of footprints: against dense least squares, known truth, other tilings."""

from __future__ import annotations

import numpy as np
import pytest

from tiledsky.errors import InputError
from tiledsky.kernels.footprints import blocks, sums, terms
from tiledsky.kernels.footprints.blocks import Level
from tiledsky.kernels.footprints.sets import offsets, sets_of
from tiledsky.kernels.footprints.sums import FootprintSums
from tiledsky.kernels.footprints.terms import footprint_terms, from_rows, pseudo_inverse, to_rows

SHAPE = (512, 300)
TRUE = np.array([1.2, -1.5, 0.3, 0.0])
#: Rows and columns of four footprints that overlap.
PLACES = ((0, 330, 0, 200), (170, 512, 20, 230), (60, 420, 110, 300), (300, 512, 140, 300))


def bits_of(places: tuple[tuple[int, int, int, int], ...] = PLACES) -> np.ndarray:
    """A bit for each footprint."""
    bits = np.zeros(SHAPE, np.int32)
    for k, (y0, y1, x0, x1) in enumerate(places):
        bits[y0:y1, x0:x1] |= 1 << k
    return bits


def mean_of(bits: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The mean of the terms of the footprints of each pixel."""
    each = np.array([(bits >> k) & 1 for k in range(len(true))], float)
    return np.tensordot(true, each, 1) / np.maximum(each.sum(0), 1)


def mosaic(
    seed: int, bits: np.ndarray, true: np.ndarray = TRUE, *, curve: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """A bent sky with steps and noise, and pixels to be left out, with wild values."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(-1, 1, SHAPE[0])[:, np.newaxis], np.linspace(-1, 1, SHAPE[1])
    ignore = rng.random(SHAPE) < 0.2
    image = 100.0 + 3.0 * (y * x + y * y - x) + mean_of(bits, true) + rng.normal(0, 1, SHAPE)
    return np.where(ignore, 1e6, image), ignore


def sums_of(image: np.ndarray, ignore: np.ndarray, planes: list[np.ndarray], *, tile: int = 1 << 20) -> FootprintSums:
    """Sums of all tiles, the last ones first."""
    found = []
    for y in reversed(range(0, SHAPE[0], tile)):
        for x in reversed(range(0, SHAPE[1], tile)):
            of = np.s_[y : y + tile, x : x + tile]
            sets, members = sets_of([plane[of] for plane in planes], labels=False)
            found.append(FootprintSums.of_tile(image[of], ignore[of], sets, members, (y, x)))
    return FootprintSums.merged(FootprintSums.from_bytes(sums.to_bytes()) for sums in found)


@pytest.mark.parametrize("level", blocks.LEVELS)
def test_terms_are_those_of_dense_least_squares(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    """A polynomial for each block, and the mean of the terms of each pixel; the least norm of the terms."""
    monkeypatch.setattr(sums, "LEVELS", (level,))
    bits = bits_of()
    image, ignore = mosaic(1, bits)
    table = footprint_terms(sums_of(image, ignore, [bits]))
    good = ~ignore & (bits != 0)
    y, x = (a[good] for a in np.indices(SHAPE))
    block = y // level.size * 100 + x // level.size
    means = np.array([mean_of(bits, row)[good] for row in np.eye(4)]).T
    left, values = means.copy(), image[good] - 100.0
    for one in np.unique(block):
        at = block == one
        v, u = (y[at] % level.size) / level.size, (x[at] % level.size) / level.size
        powers = [v**i * u**j for i in range(level.degree + 1) for j in range(level.degree + 1 - i)]
        design = np.linalg.qr(np.array(powers).T)[0]
        if np.unique(bits[good][at]).size < 2:
            left[at] = values[at] = 0.0
            continue
        left[at] -= design @ (design.T @ left[at])
        values[at] -= design @ (design.T @ values[at])
    expected = np.linalg.pinv(left, rcond=1e-6) @ values
    np.testing.assert_allclose(table["term"], expected, atol=2e-5)


def test_known_terms_are_found_within_their_errors() -> None:
    bits, pulls = bits_of(), []
    for seed in range(12):
        table = footprint_terms(sums_of(*mosaic(seed, bits), [bits]))
        assert table["number"].tolist() == [1, 2, 3, 4]
        assert (table["group"] == 1).all()
        pulls.append((table["term"] - (TRUE - TRUE.mean())) / table["error"])
    assert 0.5 < np.std(pulls) < 1.4
    assert np.abs(pulls).max() < 4
    assert table["error"].max() < 0.05


def test_the_bits_do_not_depend_on_tiles() -> None:
    bits = bits_of()
    image, ignore = mosaic(3, bits)
    whole = sums_of(image, ignore, [bits])
    assert sums_of(image, ignore, [bits], tile=256).to_bytes() == whole.to_bytes()
    with pytest.raises(AssertionError):  # blocks that tiles cut are others
        assert sums_of(image, ignore, [bits], tile=200).to_bytes() == whole.to_bytes()


def test_footprints_that_nothing_tells_apart_have_the_mean_and_those_alone_nothing() -> None:
    """Two exposures of one place; one that touches no other."""
    places = ((0, 250, 0, 200), (130, 250, 0, 300), (130, 250, 0, 300), (300, 512, 40, 300))
    bits, true = bits_of(places), np.array([1.0, -0.4, -0.2, 5.0])
    table = footprint_terms(sums_of(*mosaic(4, bits, true), [bits]))
    assert table["group"].tolist() == [1, 1, 1, 2]
    assert table["term"][3] == 0.0
    assert np.isnan(table["error"][3])
    one, two, three, _ = table["term"]
    assert two == pytest.approx(three, abs=1e-9)
    assert one + two + three == pytest.approx(0, abs=1e-9)
    assert one - two == pytest.approx(1.3, abs=4 * np.hypot(table["error"][0], table["error"][1]))
    assert table["overlaps"].tolist() == [2, 2, 2, 0]
    assert table["pixels"][1] == table["pixels"][2] > table["shared"][0] > 0


def test_hundreds_of_footprints_take_little_and_have_the_bits_of_any_tiling() -> None:
    """A set for nearly every place: sums go by pairs of footprints that meet, and not by pairs of sets."""
    rng, count = np.random.default_rng(11), 320
    planes, true = [np.zeros(SHAPE, np.int32) for _ in range(count // 32)], rng.normal(0, 1, count)
    total, depth = np.zeros((2, *SHAPE))
    for k, (y, x) in enumerate(rng.integers(-60, (SHAPE[0] - 10, SHAPE[1] - 10), (count, 2))):
        at = np.s_[max(y, 0) : y + 90, max(x, 0) : x + 90]
        planes[k // 32][at] |= np.array(1 << k % 32).astype(np.uint32).view(np.int32)
        total[at] += true[k]
        depth[at] += 1
    image = total / np.maximum(depth, 1) + rng.normal(0, 0.1, SHAPE)
    ignore = rng.random(SHAPE) < 0.1
    whole = sums_of(image, ignore, planes)
    assert whole.numbers.size == count
    assert len(sets_of(planes, labels=False)[1]) > 5 * count
    pairs = len(whole.overlaps.value)
    assert pairs < count**2 / 4  # those that are far apart have none
    assert len(whole.to_bytes()) < 20 * 8 * 4 * 4 * pairs
    assert sums_of(image, ignore, planes, tile=256).to_bytes() == whole.to_bytes()
    table = footprint_terms(whole)
    assert table["overlaps"].sum() == 2 * pairs
    sets, members = sets_of(planes, labels=False)
    found = offsets(sets, members, dict(zip(table["number"].tolist(), table["term"].tolist(), strict=True)))
    error = (found - total / np.maximum(depth, 1))[depth > 0]
    assert error.std() < 0.02  # of steps of 0.23, under noise of 0.1
    pulls = (table["term"] - true + true.mean()) / table["error"]
    assert 0.8 < np.median(np.abs(pulls)) / 0.6745 < 1.3


def test_more_footprints_than_are_solved_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MOST", 3)
    bits = bits_of()
    with pytest.raises(InputError, match="the image has 4 footprints, and the constants of 3 can be solved together"):
        footprint_terms(sums_of(*mosaic(1, bits), [bits]))


def test_nothing_to_go_by() -> None:
    """All pixels left out; pixels of no exposure."""
    bits = bits_of()
    image, ignore = mosaic(5, bits)
    table = footprint_terms(sums_of(image, np.ones(SHAPE, bool), [bits]))
    assert (table["term"] == 0).all()
    assert np.isnan(table["error"]).all()
    assert len(footprint_terms(sums_of(image, ignore, [np.zeros(SHAPE, np.int32)]))) == 0


@pytest.mark.parametrize("rank", [0, 1, 3, 6])
def test_the_inverse_of_a_singular_matrix(rank: int) -> None:
    factor = 30 * np.random.default_rng(rank).normal(size=(6, rank))
    matrix = factor @ factor.T
    inverse, found = pseudo_inverse(matrix.copy())
    assert found == rank
    np.testing.assert_allclose(inverse, np.linalg.pinv(matrix, rcond=1e-9), rtol=1e-7, atol=1e-12)


def test_sets_of_bits_in_several_planes_and_of_labels() -> None:
    """The highest bit of a plane is its sign; other byte orders are read."""
    rng = np.random.default_rng(6)
    given = rng.random((70, 9, 11)) < 0.1
    words = [sum(given[32 * k + j].astype(np.int64) << j for j in range(min(32, 70 - 32 * k))) for k in range(3)]
    planes = [
        word.astype(np.uint32).view(np.int32).astype(order)
        for word, order in zip(words, (">i4", "<i4", "i4"), strict=True)
    ]
    sets, members = sets_of(planes, labels=False)
    expected = {(y, x): tuple((np.flatnonzero(given[:, y, x]) + 1).tolist()) for y in range(9) for x in range(11)}
    assert {at: members[sets[at]] for at in expected} == expected
    labels = rng.integers(-1, 4, (9, 11), np.int16)
    sets, members = sets_of([labels], labels=True)
    assert all(members[sets[at]] == ((int(labels[at]),) if labels[at] > 0 else ()) for at in expected)
    terms_of = {1: 0.5, 2: -1.0, 3: 2.0}
    np.testing.assert_array_equal(offsets(sets, members, terms_of), np.array([0, 0, 0.5, -1, 2])[labels + 1])


def test_a_table_as_plain_data() -> None:
    bits = bits_of()
    table = footprint_terms(sums_of(*mosaic(7, bits), [bits]))
    table["error"][2] = np.nan
    back = from_rows(to_rows(table))
    assert back.dtype == terms.FOOTPRINT
    assert back.tobytes() == table.tobytes()
