"""The last step of compiling for a GPU: nvcc, and a module of what it made."""

from __future__ import annotations

from typing import Any

import numpy as np

from alt.cuda.code import CudaCode
from alt.cuda.gpu import Gpu
from alt.cuda.lower import Lowered
from alt.cuda.module import CudaModule
from alt.cuda.nvcc import compile_source


def cuda_module(
    lowered: Lowered,
    weights: np.ndarray,
    header: dict[str, Any],
    gpu: Gpu,
    device: int | str | None = None,
    cuda_graph: bool = True,
) -> CudaModule:
    """Compile the kernels of a network.

    Args:
        lowered: host code and CUDA C.
        weights: the constants as the kernels read them.
        header: of the module; what nvcc says of each kernel is added to its schedule.
        gpu: what the code is for.
        device: the GPU to run on.
        cuda_graph: whether to replay the network as a CUDA graph.

    Raises:
        AltError: if there is no nvcc, or it fails.
    """
    images = compile_source(lowered.source, gpu.arch)
    for kernel in header["kernels"]:
        for image in images:
            if kernel["function"] in image.registers:
                kernel["schedule"]["registers"] = image.registers[kernel["function"]]
                spilled = image.spilled_bytes[kernel["function"]]
                kernel["schedule"] |= {"spilled": spilled} if spilled else {}
    launches = [{n: lowered.launches[n].to_dict() for n in image.registers} for image in images]
    header["launches"] = launches
    code = CudaCode(lowered.host, [image.code for image in images], launches)
    return CudaModule(code, weights, header, device, cuda_graph=cuda_graph)
