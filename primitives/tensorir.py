"""What this package uses of TVM, typed as `Any`: TVM ships no stubs, and the boundary is here."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any

import tvm as _tvm
import tvm.ir as _ir
import tvm.s_tir as _s_tir
import tvm.sym as _sym
import tvm.tirx as _tirx
import tvm_ffi as _ffi

tvm: Any = _tvm
ir: Any = _ir
tirx: Any = _tirx
s_tir: Any = _s_tir
sym: Any = _sym
ffi: Any = _ffi

Expr = Any
"""A TVM primitive expression, or a Python number that stands for one."""

Var = Any
"""A TVM variable."""

Buffer = Any
"""A TVM variable whose type is a buffer type."""

PrimFunc = Any
"""A TVM TensorIR function."""
