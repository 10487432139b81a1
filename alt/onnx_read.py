"""ONNX files, read with every complaint in one line."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from alt.errors import AltError

Model = str | os.PathLike | bytes | onnx.ModelProto


def read_model(model: Model) -> onnx.ModelProto:
    """Read an ONNX model, external data included, as long as that lies in the model's folder.

    Raises:
        AltError: No such file, not ONNX, cut short, or external data missing or elsewhere.
    """
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, bytes | bytearray | memoryview):
        return _parse(bytes(model), "the model given as bytes")
    path = Path(model)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise AltError(f"cannot read the model {path}: there is no such file") from error
    except OSError as error:
        raise AltError(f"cannot read the model {path}: {error.strerror}") from error
    proto = _parse(content, str(path))
    del content
    _load_external_data(proto, path)
    return proto


def _parse(content: bytes, source: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise AltError(
            f"cannot read {source}: it is not an ONNX model, or it was cut short "
            f"({len(content)} bytes); export or download it again"
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise AltError(f"cannot read {source}: it is not an ONNX model (no graph inside)")
    return proto


def _load_external_data(proto: onnx.ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(proto):
        if not external_data_helper.uses_external_data(tensor):
            continue
        info = external_data_helper.ExternalDataInfo(tensor)
        file = (folder / info.location).resolve()
        if not file.is_relative_to(folder):
            raise AltError(
                f"cannot read the model {path}: the data of tensor {tensor.name} lies in "
                f"{info.location}, outside the model's folder; move it next to the model"
            )
        try:
            with file.open("rb") as stream:
                stream.seek(info.offset or 0)
                data = stream.read(info.length if info.length is not None else -1)
        except OSError as error:
            raise AltError(
                f"cannot read the model {path}: the data of tensor {tensor.name} should be in "
                f"{info.location}: {error.strerror}"
            ) from error
        if info.length is not None and len(data) != info.length:
            raise AltError(
                f"cannot read the model {path}: {info.location} is cut short: tensor "
                f"{tensor.name} has {len(data)} of {info.length} bytes"
            )
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
