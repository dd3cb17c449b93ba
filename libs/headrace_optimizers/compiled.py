"""Loops over arrays, compiled by numba: in one pass over memory, and without the interpreter's lock.

A function is compiled when it is first called, for the types it is called with, and kept on disk: beside its source, or in the user's cache where
that cannot be written (or in NUMBA_CACHE_DIR).

Two things to know. An unsigned number meets no signed one in a compiled function: numba would make a float of both. And an index is unsigned:
a signed one may be negative and count from the end, which numba checks for each element, and then the loop does not use vector instructions.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function. Sums may be computed in any order; nothing is assumed of NaN and infinity."""
    options: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": {"reassoc", "contract", "nsz"}}
    return cast("Callable[P, R]", numba.njit(**options)(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function a part of each compiled one that calls it: a call would count references to its arrays, with a lock."""
    return cast("Callable[P, R]", numba.njit(inline="always")(function))


def _prefetch(_typing: Any, array: Any, place: Any) -> Any:
    """Tell the processor that a compiled function will soon use `array[place]`, shape (n,), so that it need not wait for it then.

    Rows are read at random: without this the processor waits for the memory of one row after the other.
    """
    write, soon, data = 1, 3, 1  # the arguments of llvm.prefetch

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.gep(context.make_array(array)(context, builder, arguments[0]).data, [arguments[1]])
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba does not type it
            builder.module, kind, "llvm.prefetch.p0"
        )
        builder.call(function, [builder.bitcast(pointer, address), *map(number, (write, soon, data))])
        return context.get_dummy_value()

    return types.void(array, place), generate


prefetch = cast("Callable[[Any, Any], None]", intrinsic(_prefetch))
