"""Sixteen boxes side by side: sorting and summing the columns of a (rows, 16) buffer with vector instructions.

A buffer holds one value of each of :data:`LANES` boxes in a row, so one vector instruction works on sixteen boxes and
no column ever meets another: what a column becomes depends on that column alone, whichever lane it is in. The
loops are given to the compiler as vectors because it does not find them in scalar code.

``tests/kernels/twins.py`` has each function once more in plain numpy, with the same bits: read that first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic as numba_intrinsic

from tiledsky.kernels._simd.llvm import call, loop, variable

intrinsic: Any = numba_intrinsic  # its results are called from compiled code only, without the typing context

LANES = 16
BASE_ROWS = 8  # rows sorted in registers before the merging starts; buffers hold a multiple of it
_BLOCK_ROWS = 256  # 16 kB of float32: the merges up to here stay in the first-level cache

# From builder, d (0 for a value that does not count), d * factor and the vector of what counts: two terms to be summed.
Terms = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def _comparators(n: int) -> list[tuple[int, int]]:
    """Return the pairs of Batcher's merge exchange of `n` items (Knuth, TAOCP 3, algorithm 5.2.2M), in order."""
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(j, min(j + k, n - k)):
                    if i // (2 * p) == (i + k) // (2 * p):
                        pairs.append((i, i + k))
            k //= 2
        p *= 2
    return pairs


def splat(builder: Any, scalar: Any) -> Any:
    """Return a vector with `scalar` in every lane."""
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)


@intrinsic
def gather_columns(
    typing_context: Any, image: Any, offsets: Any, n: Any, buffer: Any, first_row: Any, counts: Any
) -> Any:
    """Fill `n` rows of a buffer from an image: column k takes the run of `n` pixels from the flat index offsets[k].

    ``gather_columns(image, offsets, n, buffer, first_row, counts)``. What is not finite becomes +inf; counts[k] grows
    by the number of the others. Offsets and counts are int64.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        element = context.get_data_type(image.dtype)
        vector, integers = ir.VectorType(element, LANES), ir.VectorType(ir.IntType(64), LANES)
        mask = ir.VectorType(ir.IntType(1), LANES)
        size = image.dtype.bitwidth // 8

        def pointer(i: int) -> Any:
            return context.make_array(signature.args[i])(context, builder, arguments[i]).data

        def constant(value: float) -> Any:
            return ir.Constant(vector, [value] * LANES)

        addresses = ir.VectorType(element.as_pointer(), LANES)
        suffix = "f32.v16p0" if size == 4 else "f64.v16p0"
        source, target = pointer(0), pointer(3)
        start = builder.load(builder.bitcast(pointer(1), integers.as_pointer()), align=8)
        place = builder.bitcast(pointer(5), integers.as_pointer())
        count = variable(builder, builder.load(place, align=8))
        # Addresses as integers: the IR builder has no vector of pointers into an array.
        step = ir.Constant(integers, [size] * LANES)
        origin = splat(builder, builder.ptrtoint(source, ir.IntType(64)))
        bases = builder.add(origin, builder.mul(start, step))
        with loop(builder, arguments[2].type(0), arguments[2]) as i:
            x = call(
                builder,
                f"llvm.masked.gather.v{LANES}{suffix}",
                vector,
                [
                    builder.inttoptr(builder.add(bases, builder.mul(splat(builder, i), step)), addresses),
                    ir.Constant(ir.IntType(32), size),
                    ir.Constant(mask, [1] * LANES),
                    constant(0.0),
                ],
            )
            finite = builder.fcmp_ordered("==", builder.fsub(x, x), constant(0.0))
            builder.store(builder.sub(builder.load(count), builder.sext(finite, integers)), count)
            row = builder.mul(builder.add(arguments[4], i), ir.Constant(arguments[4].type, LANES))
            out = builder.bitcast(builder.gep(target, [row]), vector.as_pointer())
            builder.store(builder.select(finite, x, constant(np.inf)), out, align=size)
        builder.store(builder.load(count), place, align=8)
        return context.get_dummy_value()

    return types.void(image, offsets, types.intp, buffer, types.intp, counts), generate


def _exchange_rows(pairs: Sequence[tuple[int, int]], n_rows: int) -> Any:
    """Make an intrinsic ``f(buffer, first, step)``: compare-exchange `pairs` of the rows first, first + step, ..."""

    @intrinsic
    def exchange(typing_context: Any, buffer: Any, first: Any, step: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array_type = signature.args[0]
            element = context.get_data_type(array_type.dtype)
            vector = ir.VectorType(element, LANES)
            start = context.make_array(array_type)(context, builder, arguments[0]).data
            row, pointers, values = arguments[1], [], []
            for _ in range(n_rows):
                offset = builder.mul(row, ir.Constant(row.type, LANES))
                pointer = builder.bitcast(builder.gep(start, [offset]), vector.as_pointer())
                pointers.append(pointer)
                values.append(builder.load(pointer, align=array_type.dtype.bitwidth // 8))
                row = builder.add(row, arguments[2])
            for i, j in pairs:
                swap = builder.fcmp_ordered("<", values[j], values[i])
                values[i], values[j] = (
                    builder.select(swap, values[j], values[i]),
                    builder.select(swap, values[i], values[j]),
                )
            for value, pointer in zip(values, pointers, strict=True):
                builder.store(value, pointer, align=array_type.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(buffer, types.intp, types.intp), generate

    return exchange


_sort_base = _exchange_rows(_comparators(BASE_ROWS), BASE_ROWS)
_sort_pair = _exchange_rows([(0, 1)], 2)


@njit(nogil=True, cache=True)
def _merge(buffer: np.ndarray, start: int, n: int, p: int) -> None:
    """Merge the sorted runs of `p` rows in rows start .. start + n, two by two."""
    for j in range(0, n - p, 2 * p):
        for i in range(min(p, n - j - p)):
            _sort_pair(buffer, start + j + i, p)
    k = p >> 1
    while k >= 1:
        for j in range(k, n - k, 2 * k):
            if (j + k) & (2 * p - 1) != 0:
                for i in range(min(k, n - j - k)):
                    _sort_pair(buffer, start + j + i, k)
        k >>= 1


@njit(nogil=True, cache=True)
def sort_lanes(buffer: np.ndarray, n_rows: int) -> None:
    """Sort every column of a buffer in place, ascending.

    Parameters
    ----------
    buffer : ndarray of float32 or float64, shape (at least n_rows rounded up to BASE_ROWS, times LANES,)
        Row i of lane k is element ``i * LANES + k``. No NaN; rows from `n_rows` up to the rounded number must be +inf.
    n_rows : int
        Number of rows to sort.

    Notes
    -----
    Batcher's odd-even merge exchange: the same comparisons whatever the values are.
    """
    n = (n_rows + BASE_ROWS - 1) // BASE_ROWS * BASE_ROWS
    for row in range(0, n, BASE_ROWS):
        _sort_base(buffer, row, 1)
    for start in range(0, n, _BLOCK_ROWS):
        size = min(_BLOCK_ROWS, n - start)
        p = BASE_ROWS
        while p < size:
            _merge(buffer, start, size, p)
            p *= 2
    p = _BLOCK_ROWS
    while p < n:
        _merge(buffer, 0, n, p)
        p *= 2


def _lane_sums(terms: Terms) -> Any:
    """Make an intrinsic that sums two terms of ``(value - centre)`` down each column, rows in ascending order.

    ``f(buffer, first_row, last_row, start, stop, centre, factor, sum0, sum1)``: lane k sums its rows from start[k] to
    stop[k]; `terms` builds the two terms from the difference d and d * factor. All in float64.
    """

    @intrinsic
    def sums(
        typing_context: Any, buffer: Any, first: Any, last: Any, start: Any, stop: Any, centre: Any, factor: Any,
        sum0: Any, sum1: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            doubles = ir.VectorType(ir.DoubleType(), LANES)
            integers = ir.VectorType(ir.IntType(64), LANES)

            def pointer(i: int) -> Any:
                return context.make_array(signature.args[i])(context, builder, arguments[i]).data

            def load(i: int, vector: Any) -> Any:
                return builder.load(builder.bitcast(pointer(i), vector.as_pointer()), align=8)

            def constant(value: float) -> Any:
                return ir.Constant(doubles, [value] * LANES)

            array_type = signature.args[0]
            values = ir.VectorType(context.get_data_type(array_type.dtype), LANES)
            data = pointer(0)
            shorts = ir.VectorType(ir.IntType(32), LANES)  # row numbers: half the vectors of int64
            starts, stops = (builder.trunc(load(i, integers), shorts) for i in (3, 4))
            centres, factors = load(5, doubles), load(6, doubles)
            totals = [variable(builder, constant(0.0)) for _ in range(2)]
            with loop(builder, arguments[1], arguments[2]) as i:
                offset = builder.mul(i, ir.Constant(i.type, LANES))
                x = builder.load(
                    builder.bitcast(builder.gep(data, [offset]), values.as_pointer()),
                    align=array_type.dtype.bitwidth // 8,
                )
                if array_type.dtype.bitwidth == 32:
                    x = builder.fpext(x, doubles)
                row = splat(builder, builder.trunc(i, ir.IntType(32)))
                inside = builder.and_(builder.icmp_signed(">=", row, starts), builder.icmp_signed("<", row, stops))
                d = builder.select(inside, builder.fsub(x, centres), constant(0.0))
                for total, term in zip(totals, terms(builder, d, builder.fmul(d, factors), inside), strict=True):
                    builder.store(builder.fadd(builder.load(total), term), total)
            for i, total in zip((7, 8), totals, strict=True):
                builder.store(builder.load(total), builder.bitcast(pointer(i), doubles.as_pointer()), align=8)
            return context.get_dummy_value()

        return (
            types.void(buffer, types.intp, types.intp, start, stop, centre, factor, sum0, sum1),
            generate,
        )

    return sums


def _constant(value: float) -> Any:
    return ir.Constant(ir.VectorType(ir.DoubleType(), LANES), [value] * LANES)


def moment_terms(builder: Any, d: Any, u: Any, inside: Any) -> tuple[Any, Any]:
    """Terms of the mean and the variance: d and d^2."""
    return d, builder.fmul(d, d)


def _weights(builder: Any, u: Any, inside: Any) -> tuple[Any, Any]:
    """Return u^2 and 1 - u^2, the second 0 where abs(u) >= 1 or the value does not count."""
    square = builder.fmul(u, u)
    weight = builder.fsub(_constant(1.0), square)
    counts = builder.and_(inside, builder.fcmp_ordered(">", weight, _constant(0.0)))
    return square, builder.select(counts, weight, _constant(0.0))


def location_terms(builder: Any, d: Any, u: Any, inside: Any) -> tuple[Any, Any]:
    """Terms of the biweight location: d (1 - u^2)^2 and (1 - u^2)^2 where abs(u) < 1."""
    _, weight = _weights(builder, u, inside)
    weight = builder.fmul(weight, weight)
    return builder.fmul(d, weight), weight


def scale_terms(builder: Any, d: Any, u: Any, inside: Any) -> tuple[Any, Any]:
    """Terms of the biweight scale: d^2 (1 - u^2)^4 and (1 - u^2)(1 - 5 u^2) where abs(u) < 1."""
    square, weight = _weights(builder, u, inside)
    w2 = builder.fmul(weight, weight)
    slope = builder.fsub(_constant(1.0), builder.fmul(_constant(5.0), square))
    return builder.fmul(builder.fmul(d, d), builder.fmul(w2, w2)), builder.fmul(weight, slope)


moments = _lane_sums(moment_terms)
biweight_location_sums = _lane_sums(location_terms)
biweight_scale_sums = _lane_sums(scale_terms)
