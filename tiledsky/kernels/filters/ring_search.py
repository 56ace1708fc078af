"""Search for the code of a rank under a footprint, at 32 neighbouring pixels at once.

Every pixel has a pivot code. A pass over the footprint counts in vector lanes how many members lie above the pivots;
the distance to the wanted count, times the codes between two members, tells where to look next. The compiler is given
vectors, because it would keep the counters of a scalar loop in memory; they are generic: any processor will do.

Its twin is `scipy.ndimage.rank_filter`: ``tests/kernels/test_ring.py`` compares the two bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from tiledsky.kernels._simd.llvm import loop, variable

LANES = 32  # pixels searched together: one 512-bit, two 256-bit or four 128-bit registers of 16-bit codes
TOP = 32767  # code of everything above the window of codes; 0 is everything below it, -1 is not counted
CODES = TOP - 1  # distinct values that a window of codes can tell apart
UNKNOWN, EMPTY, DONE = -1, -2, -3  # instead of a rank: not found yet, no valid member, settled before
_CHUNK = 32767  # members that a 16-bit counter can take
_COUNTING_PASSES = 2  # passes that only count, before those that also look for the neighbours of the pivot
_BISECT_AFTER = 8  # passes after which the bracket is halved, whatever the density says
_FAR = 65536.0  # codes; no step needs to be longer
_ENOUGH = 4  # members a pivot must have passed to say how dense they lie
_PIVOT, _BELOW, _ABOVE, _NOTHING = range(4)  # rows of the 16-bit lane state
_COUNT, _VALID, _TARGET, _LOW, _HIGH, _ANSWER, _LAST_PIVOT, _LAST_COUNT = range(8)  # rows of the 32-bit lane state

_I16 = ir.VectorType(ir.IntType(16), LANES)
_I32 = ir.VectorType(ir.IntType(32), LANES)
_F32 = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(64)


def _lane_pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any) -> Any:
    """Return where `array[index]` starts, as a pointer to a vector."""
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [index]), vector.as_pointer())


def _rows(context: Any, builder: Any, kind: Any, array: Any, vector: Any) -> Any:
    """Return functions that load and store a row of lane state."""

    def pointer(row: Any) -> Any:
        row = ir.Constant(_INDEX, row) if isinstance(row, int) else row
        return _lane_pointer(context, builder, kind, array, builder.mul(row, ir.Constant(_INDEX, LANES)), vector)

    align = kind.dtype.bitwidth // 8
    return (lambda row: builder.load(pointer(row), align=align)), (
        lambda row, value: builder.store(value, pointer(row), align=align)
    )


def _smaller(builder: Any, a: Any, b: Any, signed: bool = True) -> Any:
    compare = builder.icmp_signed if signed else builder.icmp_unsigned
    return builder.select(compare("<", a, b), a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


@intrinsic
def _count_above(typing_context, codes, base, offsets, first, last, sign, pivot, counter, words, state):  # type: ignore[no-untyped-def]
    """state[counter] += sign * how many codes[base + offsets[first:last] + lane] lie above words[pivot]."""
    signature = types.void(
        codes, types.intp, offsets, types.intp, types.intp, types.int32, types.intp, types.intp, words, state
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, base, offsets, first, last, sign, pivot, counter, words, state = arguments
        kinds = signature.args
        offset_start = context.make_array(kinds[2])(context, builder, offsets).data
        load, _ = _rows(context, builder, kinds[8], words, _I16)
        load_state, store_state = _rows(context, builder, kinds[9], state, _I32)
        pivots = load(pivot)
        above = variable(builder, ir.Constant(_I16, [0] * LANES))
        with loop(builder, first, last) as i:
            offset = builder.add(base, builder.load(builder.gep(offset_start, [i])))
            code = builder.load(_lane_pointer(context, builder, kinds[0], codes, offset, _I16), align=2)
            # a comparison is -1 where true
            is_above = builder.sext(builder.icmp_signed(">", code, pivots), _I16)
            builder.store(builder.sub(builder.load(above), is_above), above)
        total = builder.sext(builder.load(above), _I32)
        negative = builder.icmp_signed("<", sign, ir.Constant(sign.type, 0))
        total = builder.select(negative, builder.neg(total), total)
        store_state(counter, builder.add(load_state(counter), total))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _count_and_neighbours(typing_context, codes, base, offsets, first, last, words, state):  # type: ignore[no-untyped-def]
    """As `_count_above` of the pivots, and the largest code not above the pivot and the smallest above it."""
    signature = types.void(codes, types.intp, offsets, types.intp, types.intp, words, state)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, base, offsets, first, last, words, state = arguments
        kinds = signature.args
        offset_start = context.make_array(kinds[2])(context, builder, offsets).data
        load, store = _rows(context, builder, kinds[5], words, _I16)
        load_state, store_state = _rows(context, builder, kinds[6], state, _I32)
        pivots = load(_PIVOT)
        above = variable(builder, ir.Constant(_I16, [0] * LANES))
        nearest_below = variable(builder, load(_BELOW))
        nearest_above = variable(builder, load(_ABOVE))
        with loop(builder, first, last) as i:
            offset = builder.add(base, builder.load(builder.gep(offset_start, [i])))
            code = builder.load(_lane_pointer(context, builder, kinds[0], codes, offset, _I16), align=2)
            is_above = builder.sext(builder.icmp_signed(">", code, pivots), _I16)
            not_above = builder.not_(is_above)
            builder.store(builder.sub(builder.load(above), is_above), above)
            # what is on the other side becomes 0, or 65535 as an unsigned number, and loses
            below_or_zero = builder.and_(code, not_above)
            above_or_all = builder.or_(code, not_above)
            builder.store(_larger(builder, below_or_zero, builder.load(nearest_below)), nearest_below)
            builder.store(_smaller(builder, above_or_all, builder.load(nearest_above), signed=False), nearest_above)
        store_state(_COUNT, builder.add(load_state(_COUNT), builder.sext(builder.load(above), _I32)))
        store(_BELOW, builder.load(nearest_below))
        store(_ABOVE, builder.load(nearest_above))
        return context.get_dummy_value()

    return signature, generate


def _measured_gap(builder: Any, gap: Any, moved: Any, fewer: Any) -> Any:
    """Return the distance of two members in codes, learnt anew where the last move of a pivot passed enough members."""
    enough = ir.Constant(_I32, [_ENOUGH] * LANES)
    distance = _larger(builder, fewer, builder.neg(fewer))
    measured = builder.fdiv(builder.sitofp(moved, _F32), builder.sitofp(_larger(builder, distance, enough), _F32))
    measured = builder.select(
        builder.icmp_signed("<", fewer, ir.Constant(_I32, [0] * LANES)), builder.fneg(measured), measured
    )
    mean = builder.fmul(builder.fadd(gap, measured), ir.Constant(_F32, [0.5] * LANES))
    return builder.select(builder.icmp_signed(">=", distance, enough), mean, gap)


def _guess(builder: Any, origin: Any, members: Any, gap: Any) -> Any:
    """Return the code that is `members` away from `origin`, which may lie beyond the window."""
    step = builder.fmul(members, gap)
    for comparison, bound in ((">", _FAR), ("<", -_FAR)):
        limit = ir.Constant(_F32, [bound] * LANES)
        step = builder.select(builder.fcmp_ordered(comparison, step, limit), limit, step)
    return builder.add(origin, builder.fptosi(step, _I32))


def _advance_with(known: bool, bisect: bool) -> Any:
    """Make the intrinsic ``f(words, state, gaps) -> bool``; with or without neighbours, by density or by halving."""

    @intrinsic
    def advance(typing_context: Any, words: Any, state: Any, gaps: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            load_word, store_word = _rows(context, builder, signature.args[0], arguments[0], _I16)
            load, store = _rows(context, builder, signature.args[1], arguments[1], _I32)
            load_gap, store_gap = _rows(context, builder, signature.args[2], arguments[2], _F32)
            select = builder.select

            def number(value: int) -> Any:
                return ir.Constant(_I32, [value] * LANES)

            def shifted(value: float) -> Any:
                return builder.fadd(builder.sitofp(excess, _F32), ir.Constant(_F32, [value] * LANES))

            pivot, count = builder.sext(load_word(_PIVOT), _I32), load(_COUNT)
            fewer, moved = builder.sub(load(_LAST_COUNT), count), builder.sub(pivot, load(_LAST_PIVOT))
            gap = _measured_gap(builder, load_gap(0), moved, fewer)
            excess = builder.sub(count, load(_TARGET))  # members above the pivot, more than there should be
            up = builder.icmp_signed(">", excess, number(1))
            down = builder.icmp_signed("<", excess, number(0))
            beside = builder.not_(builder.or_(up, down))
            if known:
                below, above = (builder.sext(load_word(row), _I32) for row in (_BELOW, _ABOVE))
                # a neighbour is one member nearer, and stands between two gaps
                origin, members = select(up, above, below), select(up, shifted(-1.5), shifted(0.5))
            else:
                below, above = pivot, builder.add(pivot, number(1))
                origin, members = pivot, shifted(-0.5)
            low, high = load(_LOW), load(_HIGH)
            low = select(up, _larger(builder, low, above), low)
            high = select(down, _smaller(builder, high, below), high)
            answer = load(_ANSWER)
            if known:
                value = select(beside, select(builder.icmp_signed("==", excess, number(0)), below, above), low)
                settles = builder.or_(beside, builder.icmp_signed(">=", low, high))
                settles = builder.and_(settles, builder.icmp_signed("<", answer, number(0)))
                answer = select(settles, value, answer)
            guess = builder.ashr(builder.add(low, high), number(1)) if bisect else _guess(builder, origin, members, gap)
            guess = _larger(builder, _smaller(builder, guess, builder.sub(high, number(1))), low)
            is_open = builder.icmp_signed("<", answer, number(0))
            stays = builder.or_(beside, builder.not_(is_open))
            for row, new in ((_LAST_COUNT, count), (_LAST_PIVOT, pivot), (_LOW, low), (_HIGH, high), (_ANSWER, answer)):
                store(row, new)
            store_gap(0, gap)
            store_word(_PIVOT, builder.trunc(select(stays, pivot, guess), _I16))
            return builder.icmp_unsigned(
                "!=", builder.bitcast(is_open, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)
            )

        return types.boolean(words, state, gaps), generate

    return advance


_advance_counted = _advance_with(known=False, bisect=False)
_advance_known = _advance_with(known=True, bisect=False)
_advance_bisecting = _advance_with(known=True, bisect=True)


@njit(nogil=True, cache=True)
def _count(codes, base, offsets, sign, pivot, counter, words, state):  # type: ignore[no-untyped-def]
    for first in range(0, offsets.size, _CHUNK):
        _count_above(codes, base, offsets, first, min(first + _CHUNK, offsets.size), sign, pivot, counter, words, state)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _look(codes, base, offsets, words, state):  # type: ignore[no-untyped-def]
    state[_COUNT] = 0
    words[_BELOW] = 0
    words[_ABOVE] = TOP
    for first in range(0, offsets.size, _CHUNK):
        _count_and_neighbours(codes, base, offsets, first, min(first + _CHUNK, offsets.size), words, state)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _recount(codes, base, stride, members, entering, leaving, slides, pivot, counter, words, state):  # type: ignore[no-untyped-def]
    """Count the members above the pivots, from the count of the row above if the footprint slides down from there."""
    if slides:
        _count(codes, base, entering, 1, pivot, counter, words, state)
        _count(codes, base - stride, leaving, -1, pivot, counter, words, state)
    else:
        state[counter] = 0
        _count(codes, base, members, 1, pivot, counter, words, state)


@njit(nogil=True, cache=True)
def _set_targets(targets, lanes, state):  # type: ignore[no-untyped-def]
    """Look up how many members should lie above the wanted one; lanes without valid members are done."""
    for i in range(LANES):
        target = targets[state[_VALID, i]]
        state[_TARGET, i] = target
        if target < 0 and lanes[i] == UNKNOWN:
            lanes[i] = EMPTY
            state[_ANSWER, i] = 0


@njit(nogil=True, cache=True)
def search_codes(codes, stride, members, entering, leaving, targets, all_valid, codes_per_member, start, found):  # type: ignore[no-untyped-def]
    """Find the code of the wanted rank wherever `found` is UNKNOWN; return how many pixels stay unknown.

    Parameters
    ----------
    codes : ndarray of int16
        Flat code buffer with rows of `stride`; the footprint of pixel (y, x) starts at ``y * stride + x``.
    members, entering, leaving : ndarray of int64
        Offsets of the footprint, of what it gained against one row higher up, and of what it lost (relative to there).
    targets : ndarray of int32
        For each number of valid members how many of them lie above the wanted one.
    all_valid : bool
        No code is -1, except beyond the last column of the image.
    codes_per_member : float
        Typical distance of two members in codes. Only the speed depends on it.
    start : int
        Rank of code 1.
    found : ndarray of int32, shape (H, multiple of LANES)
        Gets the ranks, or EMPTY.
    """
    words = np.empty((4, LANES), np.int16)
    state = np.zeros((8, LANES), np.int32)
    gaps = np.empty((1, LANES), np.float32)
    words[_NOTHING] = -1
    n_unknown = 0
    can_slide = entering.size + leaving.size < members.size
    for x in range(0, found.shape[1], LANES):
        words[_PIVOT] = TOP // 2
        gaps[:] = codes_per_member
        carried = False
        for y in range(found.shape[0]):
            lanes = found[y, x : x + LANES]
            wanted = 0
            for i in range(LANES):
                state[_ANSWER, i] = -1 if lanes[i] == UNKNOWN else 0
                wanted += lanes[i] == UNKNOWN
            if wanted == 0:
                carried = False
                continue
            base = y * stride + x
            slides = carried and can_slide
            _recount(codes, base, stride, members, entering, leaving, slides, _PIVOT, _COUNT, words, state)
            if all_valid:
                state[_TARGET] = targets[members.size]
            else:
                _recount(codes, base, stride, members, entering, leaving, slides, _NOTHING, _VALID, words, state)
                _set_targets(targets, lanes, state)
            carried = True
            _search_row(codes, base, members, words, state, gaps)
            for i in range(LANES):
                if lanes[i] == UNKNOWN:
                    answer = state[_ANSWER, i]
                    if 0 < answer < TOP:
                        lanes[i] = start + answer - 1
                    else:
                        n_unknown += 1
    return n_unknown


@njit(nogil=True, cache=True)
def _search_row(codes, base, members, words, state, gaps):  # type: ignore[no-untyped-def]
    state[_LOW] = 0
    state[_HIGH] = TOP
    state[_LAST_PIVOT] = words[_PIVOT]
    state[_LAST_COUNT] = state[_COUNT]
    _advance_counted(words, state, gaps)
    n_passes = 0
    searching = True
    while searching:
        n_passes += 1
        if n_passes <= _COUNTING_PASSES:
            state[_COUNT] = 0
            _count(codes, base, members, 1, _PIVOT, _COUNT, words, state)
            _advance_counted(words, state, gaps)
        else:
            _look(codes, base, members, words, state)
            if n_passes <= _BISECT_AFTER:
                searching = _advance_known(words, state, gaps)
            else:
                searching = _advance_bisecting(words, state, gaps)
    return n_passes
