"""What TVM can make a vector loop of."""

from __future__ import annotations

from typing import Any

from alt.elementary import Expr
from primitives.tensorir import ffi, ir, tirx

_IF_THEN_ELSE, _REINTERPRET = ir.Op.get("prim.if_then_else"), ir.Op.get("tirx.reinterpret")


def vectorizes(body: Any, lane: Expr) -> bool:
    """Whether TVM has a vector form of all calls in a loop's body.

    Where it has none it takes the loop apart one statement at a time, and every lane then sees the
    first lane's value of what another statement named.
    """
    scalar: list[Any] = []
    varying = {lane}

    def look(call: Any) -> None:
        if call.op.same_as(_IF_THEN_ELSE):
            depends: list[Any] = []
            ffi.structural_walk(
                call.args[0], [(tirx.Var, lambda v: depends.append(v) if v in varying else None)]
            )
            scalar.extend(depends)
        elif not call.op.same_as(_REINTERPRET) and not call.op.get_attr("TVectorizable"):
            scalar.append(call)

    ffi.structural_walk(body, [(tirx.Bind, lambda b: varying.add(b.var))])
    ffi.structural_walk(body, [(ir.Call, look)])
    return not scalar
