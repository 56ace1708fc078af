"""Building blocks of the kernels that are given to the compiler as vectors: a loop, a variable, a function of LLVM.

numba has the same under ``numba.core.cgutils``, which it does not promise to keep; these use llvmlite's public builder
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir


@contextmanager
def loop(builder: Any, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
    """Emit a loop over start, start + step, ... below stop; the block under ``with`` emits its body from the index."""
    before = builder.basic_block
    head, body, end = (builder.append_basic_block(f"loop.{name}") for name in ("head", "body", "end"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(start.type)
    builder.cbranch(builder.icmp_signed("<", index, stop), body, end)
    builder.position_at_end(body)
    yield index
    following = builder.add(index, start.type(step))
    index.add_incoming(start, before)
    index.add_incoming(following, builder.basic_block)  # the body may have ended in a block of its own
    builder.branch(head)
    builder.position_at_end(end)


def variable(builder: Any, value: Any) -> Any:
    """Emit a variable on the stack that starts as ``value``; return its pointer.

    Its place is made where the function is entered, so that a loop does not take more of the stack at every turn.
    """
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


def call(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Emit a call of one of LLVM's own functions, such as ``llvm.masked.gather.v16f32.v16p0``."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)
