"""TVM's own tuner on networks and their operators, for `python -m benchmarks search`.

An operator is a convolution or a product with constant weights, with a bias and a ReLU behind it.
MetaSchedule gets what Relax makes of it, may lay the weights out anew (which is not timed, as it
is done once), uses as many threads as we do, and measures as we do: three samples of at least 10
milliseconds, warm caches. A network goes through Relax's own passes for tuning, with the batch
normalisations behind 2-D convolutions folded into them before.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import ir, relax, s_tir
from tvm.relax.frontend.onnx import from_onnx

from alt.errors import AltError
from alt.threads import use_threads
from alt.verify import run_reference
from benchmarks.machine import physical_cores
from benchmarks.networks import inputs_for
from benchmarks.operators import Operator, is_relax
from benchmarks.protocol import relative_error

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Scheduled:
    """What MetaSchedule found, ready to run.

    Attributes:
        seconds: that the search took.
        trials: candidates that it measured.
        module: its `main` is the fastest one, for weights that are laid out as it wants them.
        arguments: its operands.
        error: of its result, relative to the largest magnitude of what is expected.
        threads: that it runs on.
    """

    seconds: float
    trials: int
    module: Any
    arguments: tuple[Any, ...]
    error: float
    threads: int

    def called(self, name: str) -> Called:
        """It, to be timed, with a name for tables."""
        return Called(name, self.module, self.arguments, self.threads)


@dataclass(frozen=True, eq=False)
class Called:
    """A program that TVM calls in a loop and times: neither side pays for Python.

    Attributes:
        name: for tables.
        module: its function is `main`.
        arguments: of the function.
        threads: that it runs on.
    """

    name: str
    module: Any
    arguments: Sequence[Any]
    threads: int

    @cached_property
    def _once(self) -> float:
        return min(self._evaluate(1, 3))

    def sample(self, seconds: float) -> float:
        """Seconds of a run, the mean of as many as fill the time given."""
        return self._evaluate(max(1, ceil(seconds / self._once)), 1)[0]

    def _evaluate(self, number: int, repeat: int) -> list[float]:
        use_threads(self.threads, physical_cores())
        clock = self.module.time_evaluator("main", tvm.cpu(), number=number, repeat=repeat)
        return [float(s) for s in clock(*self.arguments).results]


def search_by_metaschedule(
    operator: Operator, target: Any, folder: Path, *, trials: int, threads: int, seed: int
) -> Scheduled:
    """Tune one operator with TVM's MetaSchedule, and check what comes out.

    Args:
        operator: what to tune.
        target: TVM's target for this machine.
        folder: an empty one, for its database.
        trials: how many candidates to measure.
        threads: threads that candidates run on.
        seed: of its random decisions, and of the operands.

    Raises:
        AltError: if it finds no schedule.
    """
    meta_schedule, target, measured = _prepared(target, trials, threads, seed)
    module = ir.IRModule({"main": operator.function()})
    start = time.monotonic()
    database = meta_schedule.tune_tir(
        module,
        target,
        str(folder),
        max_trials_global=trials,
        **measured,
    )
    spent = time.monotonic() - start
    found = meta_schedule.tir_integration.compile_tir(database, module, target)
    if found is None:
        raise AltError(f"{operator.name}: MetaSchedule found no schedule in {trials} trials")
    x, w, b = operator.arrays(seed)
    y = np.full(_shape(module, -1), np.nan, np.float32)
    whole = tvm.compile(found.mod, target)
    operands = [tvm.runtime.tensor(a) for a in (x, w, b, y)]
    use_threads(threads, physical_cores())
    whole["main"](*operands)
    error = _error(operands[-1].numpy(), module, (x, w, b, y))
    # As its builder does: the weights come laid out. For their time any numbers will do.
    alone = s_tir.transform.RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(found.mod)
    operands[1] = tvm.runtime.tensor(np.resize(w, _shape(alone, 1)))
    return Scheduled(
        spent,
        len(database.get_all_tuning_records()),
        tvm.compile(alone, target).mod,
        tuple(operands),
        error,
        threads,
    )


def search_network_by_metaschedule(
    model: onnx.ModelProto, target: Any, folder: Path, *, trials: int, threads: int, seed: int
) -> Scheduled:
    """Tune all functions of a network with TVM's MetaSchedule, and check what comes out.

    Args:
        model: the network; its inputs have static shapes.
        target: TVM's target for this machine.
        folder: an empty one, for its database.
        trials: how many candidates to measure of every function.
        threads: threads that candidates and the network run on.
        seed: of its random decisions, and of the inputs.

    Raises:
        AltError: if it finds no schedule for one of the functions.
    """
    meta_schedule, target, measured = _prepared(target, trials, threads, seed)
    inputs = inputs_for(model, seed)
    _, wanted = run_reference(model, inputs)
    whole: Any = model  # what it is annotated to take is not what it takes
    module = from_onnx(whole, sanitize_input_names=False)
    passes = relax.transform
    before = [
        passes.FoldBatchnormToConv2D(),
        passes.DecomposeOpsForInference(),
        passes.CanonicalizeBindings(),
        relax.get_pipeline("zero"),
        passes.AttachAttrLayoutFreeBuffers(),
    ]
    with target:
        module = tvm.transform.Sequential(before)(module)
        start = time.monotonic()
        database = meta_schedule.relax_integration.tune_relax(
            module,
            {},
            target,
            str(folder),
            max_trials_global=1 << 30,
            max_trials_per_task=trials,
            **measured,
        )
        spent = time.monotonic() - start
        module = passes.MetaScheduleApplyDatabase(str(folder))(module)
        slow = [
            name.name_hint
            for name, function in module.functions_items()
            if not is_relax(function) and "tirx.is_scheduled" not in function.attrs
        ]
        if slow:
            raise AltError(f"MetaSchedule found no schedule in {trials} trials: {', '.join(slow)}")
        # The weights are laid out as the functions want them, once and for all.
        lay_out = [passes.SplitLayoutRewritePreproc(), passes.FoldConstant()]
        executable = tvm.compile(tvm.transform.Sequential(lay_out)(module), target)
    use_threads(threads, physical_cores())
    device: Any = tvm.cpu()
    machine = relax.VirtualMachine(executable, device)
    arguments = tuple(
        tvm.runtime.tensor(inputs[i.name]) for i in model.graph.input if i.name in inputs
    )
    outputs: Any = machine["main"](*arguments)
    found = [outputs] if isinstance(outputs, tvm.runtime.Tensor) else list(outputs)
    return Scheduled(
        spent,
        len(database.get_all_tuning_records()),
        machine.module,
        arguments,
        relative_error([tensor.numpy() for tensor in found], wanted),
        threads,
    )


def _prepared(target: Any, trials: int, threads: int, seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """MetaSchedule, the target with as many cores, and how it builds and measures."""
    load_intrinsics()
    from tvm.s_tir import meta_schedule

    # Its workers inherit it.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    logger = logging.getLogger("tvm.s_tir.meta_schedule")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers[:]:  # of a search before, into a folder that is gone
        logger.removeHandler(handler)
        handler.close()
    target = tvm.target.Target({**target.export(), "num-cores": threads})
    builder: Any = meta_schedule.builder.LocalBuilder(
        max_workers=physical_cores(), timeout_sec=120.0, initializer=load_intrinsics
    )
    config = meta_schedule.runner.EvaluatorConfig(number=1, repeat=3, min_repeat_ms=10)
    runner: Any = meta_schedule.runner.LocalRunner(evaluator_config=config)
    measured = {
        "num_trials_per_iter": min(trials, 64), "builder": builder, "runner": runner, "seed": seed,
    }  # fmt: skip
    return meta_schedule, target, measured


def load_intrinsics() -> None:
    """Import what MetaSchedule imports later, in a second instead of a minute.

    Its parser asks for the whole stack with the source around every frame, hundreds of times, and
    that takes the longer the more modules are loaded. It uses the frames only.
    """
    whole = inspect.stack
    inspect.stack = lambda context=1: whole(0)
    try:
        importlib.import_module("tvm.s_tir.tensor_intrin")
    finally:
        inspect.stack = whole


def _shape(module: Any, parameter: int) -> tuple[int, ...]:
    return tuple(int(extent) for extent in module["main"].params[parameter].ty.shape)


def _error(result: Array, module: Any, operands: tuple[Array, ...]) -> float:
    """Against the same function, not scheduled."""
    plain = tvm.compile(module, tvm.target.Target("llvm"))
    tensors = [tvm.runtime.tensor(a) for a in operands]
    plain["main"](*tensors)
    wanted = tensors[-1].numpy()
    worst = float(np.max(np.abs(result - wanted))) / float(np.max(np.abs(wanted)))
    return worst if np.isfinite(worst) else float("inf")
