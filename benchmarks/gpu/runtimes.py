"""Contenders that need more than PyTorch: ONNX Runtime, TensorRT and TVM's MetaSchedule."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.baselines import Arrays
from benchmarks.gpu.rivals import OnDevice


@dataclass
class OnnxRuntime(OnDevice):
    """ONNX Runtime's CUDA provider, with inputs and outputs bound to memory on the device.

    For `fp16` the model is converted by ONNX Runtime's own tool.
    """

    name: str = "onnxruntime"
    needs: tuple[str, ...] = ("torch", "onnxruntime")
    _session: Any = field(default=None, repr=False)

    @classmethod
    def absent(cls, device: str) -> str | None:
        missing = super().absent(device)
        if missing is not None:
            return missing
        import onnxruntime

        here = onnxruntime.get_available_providers()
        wanted = _PROVIDERS[device]
        return None if wanted in here else f"this ONNX Runtime has no {wanted}"

    def prepare(self, model: Path, threads: int) -> None:
        import onnxruntime as runtime

        loaded = onnx.load(model)
        if self.precision == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            loaded = convert_float_to_float16(loaded, keep_io_types=True)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        settings = {
            "use_tf32": "0" if self.precision == "fp32" else "1",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "prefer_nhwc": "1",
        }
        providers = [(_PROVIDERS[self.device], settings if self.device != "cpu" else {})]
        self._session = runtime.InferenceSession(
            loaded.SerializeToString(), options, providers=providers
        )

    def place(self, inputs: Arrays) -> Any:
        tensors = super().place(inputs)
        binding = self._session.io_binding()
        for (name, array), tensor in zip(inputs.items(), tensors, strict=True):
            binding.bind_input(
                name, self.device, 0, array.dtype, tuple(tensor.shape), tensor.data_ptr()
            )
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self.device)
        return binding, tensors

    def start(self, placed: Any) -> Any:
        binding, _ = placed
        self._session.run_with_iobinding(binding)
        return binding

    def results(self, outputs: Any) -> list[NDArray[Any]]:
        return [np.array(a) for a in outputs.copy_outputs_to_cpu()]


_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


@dataclass
class TensorRt(OnDevice):
    """TensorRT, from the same ONNX file."""

    name: str = "tensorrt"
    needs: tuple[str, ...] = ("torch", "tensorrt")
    _context: Any = field(default=None, repr=False)
    _outputs: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def absent(cls, device: str) -> str | None:
        return super().absent(device) or ("it needs a GPU" if device == "cpu" else None)

    def prepare(self, model: Path, threads: int) -> None:
        trt: Any = importlib.import_module("tensorrt")  # no stubs, and seldom installed

        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(model.read_bytes()):
            raise ValueError(parser.get_error(0).desc())
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        if self.precision != "fp32":
            config.set_flag(trt.BuilderFlag.TF32)
        if self.precision == "fp16":
            config.set_flag(trt.BuilderFlag.FP16)
        plan = builder.build_serialized_network(network, config)
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        self._context = engine.create_execution_context()
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        self._outputs = {
            name: self.torch.empty(tuple(engine.get_tensor_shape(name)), device=self.device)
            for name in names
            if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        }

    def place(self, inputs: Arrays) -> Any:
        tensors = dict(zip(inputs, super().place(inputs), strict=True))
        for name, tensor in (tensors | self._outputs).items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        return tensors

    def start(self, placed: Any) -> Any:
        self._context.execute_async_v3(self.torch.cuda.current_stream().cuda_stream)
        return list(self._outputs.values())


@dataclass
class MetaSchedule(OnDevice):
    """TVM's own tuner, on the whole network; what it does not schedule, TVM's rules do.

    Attributes:
        trials: candidates to measure.
        folder: for its database.
    """

    name: str = "metaschedule"
    needs: tuple[str, ...] = ("torch", "tornado", "cloudpickle")
    trials: int = 0
    folder: Path | None = None
    _machine: Any = field(default=None, repr=False)

    @classmethod
    def absent(cls, device: str) -> str | None:
        return super().absent(device) or ("it is for a GPU here" if device == "cpu" else None)

    def prepare(self, model: Path, threads: int) -> None:
        if self.precision != "fp32":
            raise ValueError("only float32 networks are tuned")
        if not self.trials or self.folder is None:
            raise ValueError("it measures nothing: give --trials")
        import tvm
        from tvm import relax

        from benchmarks.metaschedule import load_intrinsics

        load_intrinsics()
        device: Any = tvm.runtime.cuda(0)
        target = tvm.target.Target.from_device(device)
        tuned = relax.get_pipeline(
            "static_shape_tuning",
            total_trials=self.trials,
            target=target,
            work_dir=str(self.folder),
        )
        self._machine = relax.VirtualMachine(compiled_by_tvm(model, target, tuned), device)

    def place(self, inputs: Arrays) -> Any:
        import tvm

        return [tvm.runtime.tensor(a, tvm.runtime.cuda(0)) for a in inputs.values()]

    def start(self, placed: Any) -> Any:
        return self._machine["main"](*placed)

    def results(self, outputs: Any) -> list[NDArray[Any]]:
        alone = hasattr(outputs, "numpy")
        return [np.array(t.numpy()) for t in ([outputs] if alone else outputs)]


def compiled_by_tvm(model: Path, target: Any, tuned: Any) -> Any:
    """A network as TVM compiles it.

    Args:
        model: the ONNX file.
        target: TVM's, of a GPU.
        tuned: a pass that schedules what was measured.
    """
    import tvm
    from tvm import relax
    from tvm.s_tir import dlight

    from alt.frontend import import_model

    imported = import_model(model)
    weights: dict[Any, Any] = {
        name: tvm.runtime.tensor(np.array(a)) for name, a in imported.weights.items()
    }
    module = tuned(relax.transform.BindParams("main", weights)(imported.module))
    rules = dlight.gpu
    with target:
        rest: Any = dlight.ApplyDefaultSchedule(
            rules.Matmul(), rules.GEMV(), rules.Reduction(), rules.GeneralReduction(),
            rules.Transpose(), rules.Fallback(),
        )  # fmt: skip
        module = rest(module)
    return tvm.compile(module, target)
