"""Where the time goes: every kernel of a module, measured, with its layouts and schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from alt.module import Module
from alt.peak import peak_flops


@dataclass(frozen=True)
class Tensor:
    """What a kernel reads or writes."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    constant: bool

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return shape if self.dtype == "float32" else f"{self.dtype} {shape}"

    @property
    def stored(self) -> str:
        """How the layout differs from row by row: `rows`, or its steps."""
        return self.layout.partition(" ")[2] or "rows"


@dataclass(frozen=True)
class KernelCost:
    """One kernel: what it does, how, and what that costs.

    Attributes:
        name: the operators in it.
        function: the function in the library; equal kernels share one.
        anchor: the operator that decides how it is scheduled, if any.
        output: the tensor written.
        inputs: the tensors read, weights included.
        schedule: what the sketch decided, by name.
        conversion: for kernels that only change a layout, why they are there.
        seconds: median time within whole calls.
        flops: operations of its convolution or matrix product a second, if it has one.
        bytes_per_second: what it reads and writes, each tensor once.
        peak: share of the operations a second that this machine can do.
    """

    name: str
    function: str
    anchor: str | None
    output: Tensor
    inputs: tuple[Tensor, ...]
    schedule: Mapping[str, Any]
    conversion: str | None
    seconds: float
    flops: float | None
    bytes_per_second: float
    peak: float | None

    @property
    def layouts(self) -> str:
        """Layouts of what is computed at run time: inputs, then the output."""
        read = ", ".join(t.stored for t in self.inputs if not t.constant)
        return f"{read or 'nothing'} -> {self.output.stored}"


@dataclass(frozen=True)
class Explanation:
    """A report on a module; as text, a table.

    Attributes:
        kernels: in execution order.
        whole_seconds: median time of a whole call.
        peak_flops: floating-point operations a second that this machine can do, measured; None for
            a GPU.
        threads: threads that all of this ran on.
        runs_on: what of the machine that is, in words.
    """

    kernels: tuple[KernelCost, ...]
    whole_seconds: float
    peak_flops: float | None
    threads: int
    runs_on: str

    @property
    def kernel_seconds(self) -> float:
        """All kernels together."""
        return sum(k.seconds for k in self.kernels)

    @property
    def conversions(self) -> tuple[KernelCost, ...]:
        """The kernels that only change a layout."""
        return tuple(k for k in self.kernels if k.conversion is not None)

    def __str__(self) -> str:
        total = self.kernel_seconds or 1.0
        rows = [("#", "kernel", "output", "us", "time", "GFLOP/s", "peak", "schedule", "layouts")]
        for number, k in enumerate(self.kernels):
            rows.append(
                (
                    str(number),
                    k.name if k.conversion is None else "conversion",
                    str(k.output),
                    f"{k.seconds * 1e6:.1f}",
                    f"{k.seconds / total:.1%}",
                    "" if k.flops is None else f"{k.flops / 1e9:.0f}",
                    "" if k.peak is None else f"{k.peak:.0%}",
                    schedule_text(k.schedule),
                    k.layouts,
                )
            )
        lines = _table(rows, right=(0, 3, 4, 5, 6))
        lines += ["", *self._summary()]
        return "\n".join(lines)

    def _summary(self) -> list[str]:
        total = self.kernel_seconds or 1.0
        spent = sum(k.seconds for k in self.conversions)
        kernels = f"{self.kernel_seconds * 1e6:.1f} us together"
        whole = f"{self.whole_seconds * 1e6:.1f} us"
        converting = f"{spent * 1e6:.1f} us, {spent / total:.1%} of the kernels' time"
        lines = [
            f"kernels     {kernels}, a whole call {whole} (medians), {self.runs_on}",
            f"conversions {len(self.conversions)}: {converting}",
        ]
        if self.peak_flops is not None:
            peak = f"{self.peak_flops / 1e9:.0f} GFLOP/s (multiply-adds in registers)"
            lines.insert(1, f"peak        {peak}")
        for number, k in enumerate(self.kernels):
            if k.conversion is not None:
                lines.append(f"  {number:3} {k.seconds * 1e6:8.1f} us  {k.conversion}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""

        def tensor(t: Tensor) -> dict[str, Any]:
            return {"shape": list(t.shape), "dtype": t.dtype, "layout": t.layout}

        return {
            "threads": self.threads,
            "runs_on": self.runs_on,
            "peak_flops": self.peak_flops,
            "kernel_seconds": self.kernel_seconds,
            "whole_seconds": self.whole_seconds,
            "conversion_seconds": sum(k.seconds for k in self.conversions),
            "kernels": [
                {
                    "name": k.name,
                    "function": k.function,
                    "anchor": k.anchor,
                    "output": tensor(k.output),
                    "inputs": [{**tensor(t), "constant": t.constant} for t in k.inputs],
                    "schedule": dict(k.schedule),
                    "conversion": k.conversion,
                    "seconds": k.seconds,
                    "flops": k.flops,
                    "bytes_per_second": k.bytes_per_second,
                    "peak": k.peak,
                }
                for k in self.kernels
            ],
        }


def explain(module: Module, repeats: int = 10) -> Explanation:
    """Measure every kernel of a module on random inputs; loaded artifacts work as well.

    Args:
        module: what `alt.compile` or `alt.load` returned.
        repeats: whole calls to measure; kernels' times are medians over them.

    Raises:
        AltError: if the module cannot run on this machine.
    """
    seconds = np.median(module.time_kernels(repeats), axis=0)
    whole = module.benchmark(repeats).median_seconds
    target = module.header["target"]
    peak = None
    if target["kind"] == "llvm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lanes, registers = target["vector_bytes"] // 4, target["registers"]
            peak = peak_flops(target["target"], lanes, registers, module.threads)
    kernels = zip(module.header["kernels"], seconds.tolist(), strict=True)
    costs = tuple(_cost(kernel, max(spent, 1e-9), peak) for kernel, spent in kernels)
    return Explanation(costs, whole, peak, module.threads, module.runs_on)


def _cost(kernel: Mapping[str, Any], seconds: float, peak: float | None) -> KernelCost:
    operations = kernel["operations"]
    flops = None if operations is None else operations / seconds
    return KernelCost(
        name=kernel["name"],
        function=kernel["function"],
        anchor=kernel["anchor"],
        output=_tensor(kernel["output"]),
        inputs=tuple(map(_tensor, kernel["inputs"])),
        schedule=kernel["schedule"],
        conversion=kernel["conversion"],
        seconds=seconds,
        flops=flops,
        bytes_per_second=kernel["bytes"] / seconds,
        peak=None if flops is None or peak is None else flops / peak,
    )


def _tensor(data: Mapping[str, Any]) -> Tensor:
    return Tensor(tuple(data["shape"]), data["dtype"], data["layout"], data["constant"])


def schedule_text(notes: Mapping[str, Any]) -> str:
    """A schedule's decisions on one line.

    Example:
        >>> schedule_text({"tile": [1, 14, 2], "parallel": [64], "vector": 16})
        'tile 1x14x2, parallel 64, vector 16'
        >>> schedule_text({"parallel": [8, 8], "order": "places, channels"})
        'parallel 8+8, order (places, channels)'
    """

    def text(name: str, value: Any) -> str:
        if isinstance(value, str):
            return f"({value})" if "," in value else value
        if isinstance(value, list | tuple):
            return ("x" if name == "tile" else "+").join(map(str, value))
        return str(value)

    return ", ".join(f"{name} {text(name, value)}" for name, value in notes.items())


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if c in right else cell.ljust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
