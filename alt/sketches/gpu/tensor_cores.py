"""What TVM has no operators for: multiply-adds of a whole warp, and conversions to what they take.

Functions are CUDA C beside the kernel that calls them. Where `ALT_EMULATED` is defined, they are
given: a machine without such units has its own.
"""

from __future__ import annotations

from typing import Any

from alt.elementary import Expr
from alt.sketches.scope import Stmt
from primitives.tensorir import ir, tirx

_ROUND = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ float alt_tf32(float x) {
  unsigned r;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
#endif
  return __uint_as_float(r);
}
#endif
"""

_NEARLY = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ float alt_nearly(float x) {
  return __uint_as_float(__float_as_uint(x) + 0x1000u);
}
#endif
"""

_PACK = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ unsigned alt_halves(float low, float high) {
  unsigned r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
#endif
"""

_MULTIPLY = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void {name}(float* d, const {word}* a, const {word}* b) {{
  asm volatile("mma.sync.aligned.{shape}.row.col.f32.{dtype}.{dtype}.f32 "
      "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"({bits}(a[0])), "r"({bits}(a[1])), "r"({bits}(a[2])), "r"({bits}(a[3])),
        "r"({bits}(b[0])), "r"({bits}(b[1])));
}}
#endif
"""

_TF32 = _MULTIPLY.format(
    name="alt_mma_tf32", word="float", shape="m16n8k8", dtype="tf32", bits="__float_as_uint"
)
_FP16 = _MULTIPLY.format(
    name="alt_mma_fp16", word="unsigned", shape="m16n8k16", dtype="f16", bits=""
)

_MATRICES = """
#ifndef ALT_EMULATED
static __device__ __forceinline__ void alt_matrices_{dtype}({word}* to, const {word}* row) {{
  unsigned r0, r1, r2, r3;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%0, %1, %2, %3}}, [%4];"
      : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
      : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
  to[0] = {value}(r0), to[1] = {value}(r1), to[2] = {value}(r2), to[3] = {value}(r3);
}}
#endif
"""


def rounded(value: Expr) -> Expr:
    """A float32 with ten bits of mantissa, the nearest one.

    Between two it is the even one from sm_90 on, where this is one instruction; before, where it
    takes four, it is the one away from zero.
    """
    return called("float32", "alt_tf32", _ROUND, value)


def nearly(value: Expr) -> Expr:
    """What tensor cores take for the nearest of their numbers: they do not see its last bits.

    In one instruction on every GPU. Not for what might not be a number: it may
    become 0.
    """
    return called("float32", "alt_nearly", _NEARLY, value)


def packed_halves(low: Expr, high: Expr) -> Expr:
    """Two float32 as float16 in one word."""
    return called("uint32", "alt_halves", _PACK, low, high)


def multiply_add(
    precision: str, total: tuple[Any, Expr], left: tuple[Any, Expr], right: tuple[Any, Expr]
) -> Stmt:
    """16x8 results of a warp += 16x8 words x 8x8 words; each of them an array and where it starts.

    In group g = lane / 4, thread t = lane % 4 has the left words (g, t), (g + 8, t), (g, t + 4),
    (g + 8, t + 4), the right words (t, g), (t + 4, g), and the results (g, 2t), (g, 2t + 1),
    (g + 8, 2t), (g + 8, 2t + 1). All threads of the warp have to get here.

    Source: PTX ISA, matrix fragments for mma.m16n8k8 and, with two numbers a word, mma.m16n8k16.
    """
    name, source = ("alt_mma_tf32", _TF32) if precision == "tf32" else ("alt_mma_fp16", _FP16)
    pointers = [tirx.address_of(tirx.BufferLoad(b, [at])) for b, at in (total, left, right)]
    return tirx.Evaluate(called("void", name, source, *pointers))


def load_matrices(into: tuple[Any, Expr], row: tuple[Any, Expr]) -> Stmt:
    """Four matrices of 8 x 4 words from shared memory to the registers of a warp, one of each.

    Every lane names a row, its four words 16 bytes and aligned to that: lane 8 j + r row r of
    matrix j. Lane 4 r + c gets word c of row r of each matrix. All threads of the warp have to get
    here.

    Args:
        into: an array of words, and where in it the four start.
        row: words in shared memory, and where the row starts.

    Source: PTX ISA, ldmatrix.
    """
    dtype, word, value = "fp16", "unsigned", ""
    if str(into[0].dtype) == "float32":
        dtype, word, value = "tf32", "float", "__uint_as_float"
    source = _MATRICES.format(dtype=dtype, word=word, value=value)
    pointers = [tirx.address_of(tirx.BufferLoad(b, [at])) for b, at in (into, row)]
    return tirx.Evaluate(called("void", f"alt_matrices_{dtype}", source, *pointers))


def called(dtype: str, name: str, source: str, *arguments: Expr) -> Expr:
    """A call of a function that is given as CUDA C; each has a source of its own."""
    return tirx.call_intrin(
        dtype, "tirx.cuda.func_call", ir.StringImm(name), *arguments, ir.StringImm(source)
    )
