"""Copies from memory to shared memory that go on while a thread does something else.

As in `alt.sketches.gpu.tensor_cores`, functions are CUDA C, and may be given where there is none.
"""

from __future__ import annotations

from typing import Any

from alt.elementary import Expr
from alt.sketches.gpu.tensor_cores import called
from alt.sketches.scope import Stmt
from primitives.tensorir import tirx

_COPY = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void alt_copy(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
      :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
}
#endif
"""

_COPY_WORD = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void alt_copy_word(void* to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
      :: "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 4 : 0) : "memory");
}
#endif
"""

_CLOSE = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void alt_close_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
#endif
"""

_AWAIT = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void alt_await_copies_but_{left}() {{
  asm volatile("cp.async.wait_group {left};" ::: "memory");
}}
#endif
"""


def copy(to: tuple[Any, Expr], load: Any, there: Expr, words: int, further: Expr | int = 0) -> Stmt:
    """Start to copy a word of 32 bits, or four, both places aligned to as much.

    Args:
        to: an array in shared memory, and where in it.
        load: the first of them, as it would be read.
        there: whether they exist; if not, nothing is read, and zeros are written.
        words: 1 or 4.
        further: how many words behind `load` they are; a number that instructions can have in them.

    Source: PTX ISA, cp.async.
    """
    shared, at = to
    source = tirx.call_intrin(
        "handle", "tirx.handle_add_byte_offset", tirx.address_of(load), 4 * further
    )
    pointers = tirx.address_of(tirx.BufferLoad(shared, [at])), source
    name, code = {1: ("alt_copy_word", _COPY_WORD), 4: ("alt_copy", _COPY)}[words]
    return tirx.Evaluate(called("void", name, code, *pointers, there))


def close_group() -> Stmt:
    """All copies that this thread started since the last call are one group."""
    return tirx.Evaluate(called("void", "alt_close_copies", _CLOSE))


def await_groups(left: int) -> Stmt:
    """Wait until all groups of this thread but the last `left` have been copied."""
    source = _AWAIT.format(left=left)
    return tirx.Evaluate(called("void", f"alt_await_copies_but_{left}", source))
