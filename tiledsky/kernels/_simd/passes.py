"""Passes over one run of values with vector instructions: counting, neighbours of a value, sums between limits.

A run is a contiguous array whose length is a multiple of :data:`LANES`; NaN in it is left out everywhere. Counts,
smallest and largest do not depend on an order; sums are taken in sixteen interleaved parts that are added in order at
the end, so they depend on nothing but the run. The compiler does not vectorise the scalar form of these loops.

``tests/kernels/twins.py`` has each function once more in plain numpy, with the same bits: read that first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from tiledsky.kernels._simd.lanes import LANES, Terms, intrinsic, location_terms, moment_terms, scale_terms, splat
from tiledsky.kernels._simd.llvm import call, loop, variable


def _reduce(builder: Any, name: str, vector: Any, *start: Any) -> Any:
    """Reduce a vector to a scalar with LLVM's ``vector.reduce``; `name` is the operation."""
    element = vector.type.element
    kind = f"i{element.width}" if isinstance(element, ir.IntType) else ("f32" if element == ir.FloatType() else "f64")
    return call(builder, f"llvm.vector.reduce.{name}.v{LANES}{kind}", element, [*start, vector])


def _each_vector(
    context: Any, builder: Any, array_type: Any, array: Any, n: Any, visit: Callable[[Any, Any], None]
) -> None:
    """Emit a loop over the vectors of the first n elements of an array; `visit` emits its body from value and place."""
    vector = ir.VectorType(context.get_data_type(array_type.dtype), LANES)
    data = context.make_array(array_type)(context, builder, array).data
    with loop(builder, n.type(0), n, LANES) as i:
        pointer = builder.bitcast(builder.gep(data, [i]), vector.as_pointer())
        visit(builder.load(pointer, align=array_type.dtype.bitwidth // 8), pointer)


class _Extremes:
    """Accumulators of a pass: lanes of counts, of largest and of smallest values."""

    def __init__(self, builder: Any, element: Any) -> None:
        self.builder = builder
        self.vector = ir.VectorType(element, LANES)
        self.integers = ir.VectorType(ir.IntType(32), LANES)

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * LANES)

    def counter(self) -> Any:
        return variable(self.builder, ir.Constant(self.integers, [0] * LANES))

    def extreme(self, start: float) -> Any:
        return variable(self.builder, self.constant(start))

    def count(self, total: Any, condition: Any) -> None:
        b = self.builder
        b.store(b.sub(b.load(total), b.sext(condition, self.integers)), total)

    def take(self, best: Any, operator: str, value: Any) -> None:
        """Replace `best` by `value` where value operator best (false for NaN)."""
        b = self.builder
        old = b.load(best)
        b.store(b.select(b.fcmp_ordered(operator, value, old), value, old), best)


@intrinsic
def drop_infinite(typing_context: Any, values: Any, n: Any) -> Any:
    """``drop_infinite(values, n)``: make what is not finite NaN, in place; return the count of the others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Extremes(builder, context.get_data_type(values.dtype))
        count = lanes.counter()

        def visit(x: Any, pointer: Any) -> None:
            finite = builder.fcmp_ordered("==", builder.fsub(x, x), lanes.constant(0.0))
            lanes.count(count, finite)
            builder.store(builder.select(finite, x, lanes.constant(np.nan)), pointer, align=values.dtype.bitwidth // 8)

        _each_vector(context, builder, signature.args[0], arguments[0], arguments[1], visit)
        return _reduce(builder, "add", builder.load(count))

    return types.int32(values, types.intp), generate


@intrinsic
def probe(typing_context: Any, values: Any, n: Any, pivot: Any) -> Any:
    """``probe(values, n, pivot)``: (count of values <= pivot, largest of them or -inf, smallest above or inf)."""
    result = types.Tuple((types.int32, values.dtype, values.dtype))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Extremes(builder, context.get_data_type(values.dtype))
        limit = splat(builder, arguments[2])
        count, below, above = lanes.counter(), lanes.extreme(-np.inf), lanes.extreme(np.inf)

        def visit(x: Any, pointer: Any) -> None:
            inside = builder.fcmp_ordered("<=", x, limit)
            lanes.count(count, inside)
            lanes.take(below, ">", builder.select(inside, x, lanes.constant(-np.inf)))
            lanes.take(above, "<", builder.select(inside, lanes.constant(np.inf), x))

        _each_vector(context, builder, signature.args[0], arguments[0], arguments[1], visit)
        return context.make_tuple(
            builder,
            signature.return_type,
            [
                _reduce(builder, "add", builder.load(count)),
                _reduce(builder, "fmax", builder.load(below)),
                _reduce(builder, "fmin", builder.load(above)),
            ],
        )

    return result(values, types.intp, values.dtype), generate


@intrinsic
def outside(typing_context: Any, values: Any, n: Any, lower: Any, upper: Any) -> Any:
    """``outside(values, n, lower, upper)``: counts of values < lower and of values > upper, and the nearest values.

    The nearest are the largest < lower, the smallest >= lower, the largest <= upper, the smallest > upper (-inf, inf,
    -inf, inf if there is none).
    """
    kind = values.dtype
    result = types.Tuple((types.int32, types.int32, kind, kind, kind, kind))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _Extremes(builder, context.get_data_type(kind))
        low, high = splat(builder, arguments[2]), splat(builder, arguments[3])
        below, above = lanes.counter(), lanes.counter()
        nearest = [lanes.extreme(start) for start in (-np.inf, np.inf, -np.inf, np.inf)]

        def visit(x: Any, pointer: Any) -> None:
            minus, plus = lanes.constant(-np.inf), lanes.constant(np.inf)
            under, over = builder.fcmp_ordered("<", x, low), builder.fcmp_ordered(">", x, high)
            lanes.count(below, under)
            lanes.count(above, over)
            lanes.take(nearest[0], ">", builder.select(under, x, minus))
            lanes.take(nearest[1], "<", builder.select(under, plus, x))
            lanes.take(nearest[2], ">", builder.select(over, minus, x))
            lanes.take(nearest[3], "<", builder.select(over, x, plus))

        _each_vector(context, builder, signature.args[0], arguments[0], arguments[1], visit)
        counts = [_reduce(builder, "add", builder.load(count)) for count in (below, above)]
        limits = [
            _reduce(builder, name, builder.load(best))
            for name, best in zip(("fmax", "fmin", "fmax", "fmin"), nearest, strict=True)
        ]
        return context.make_tuple(builder, signature.return_type, counts + limits)

    return result(values, types.intp, kind, kind), generate


def _sums_between(terms: Terms) -> Any:
    """Make an intrinsic ``f(values, n, lower, upper, centre, factor)``: two sums over the values in [lower, upper]."""

    @intrinsic
    def sums(typing_context: Any, values: Any, n: Any, lower: Any, upper: Any, centre: Any, factor: Any) -> Any:
        kind = values.dtype

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            doubles = ir.VectorType(ir.DoubleType(), LANES)
            low, high, middle, scale = (splat(builder, argument) for argument in arguments[2:])

            def constant(value: float) -> Any:
                return ir.Constant(doubles, [value] * LANES)

            totals = [variable(builder, constant(0.0)) for _ in range(2)]

            def visit(x: Any, pointer: Any) -> None:
                inside = builder.and_(builder.fcmp_ordered(">=", x, low), builder.fcmp_ordered("<=", x, high))
                if kind.bitwidth == 32:
                    x = builder.fpext(x, doubles)
                d = builder.select(inside, builder.fsub(x, middle), constant(0.0))
                for total, term in zip(totals, terms(builder, d, builder.fmul(d, scale), inside), strict=True):
                    builder.store(builder.fadd(builder.load(total), term), total)

            _each_vector(context, builder, signature.args[0], arguments[0], arguments[1], visit)
            zero = ir.Constant(ir.DoubleType(), 0.0)
            return context.make_tuple(
                builder,
                signature.return_type,
                [_reduce(builder, "fadd", builder.load(total), zero) for total in totals],
            )

        return types.UniTuple(types.float64, 2)(values, types.intp, kind, kind, types.float64, types.float64), generate

    return sums


moments_between = _sums_between(moment_terms)
location_sums_between = _sums_between(location_terms)
scale_sums_between = _sums_between(scale_terms)
