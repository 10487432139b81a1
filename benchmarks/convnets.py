"""ResNet-18, MobileNetV2 and ResNet3D-18 as torchvision defines and exports them."""

from __future__ import annotations

import onnx

from benchmarks.onnx_builder import GraphBuilder

_RESNET_WIDTHS = (64, 128, 256, 512)

_MOBILENET_V2 = (  # expansion, channels, repeats, stride: table 2 of arXiv:1801.04381
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _classifier(b: GraphBuilder, x: str, channels: int, classes: int) -> str:
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x), axis=1)
    return b.gemm(pooled, channels, classes, output="logits")


def _basic_block(
    b: GraphBuilder, x: str, inputs: int, outputs: int, stride: int, spatial: int
) -> str:
    """Two 3x3 (or 3x3x3) convolutions and a shortcut."""
    ones, threes = (1,) * spatial, (3,) * spatial
    strides = (stride,) * spatial
    y = b.batch_norm(b.conv(x, inputs, outputs, threes, strides, ones), outputs)
    y = b.conv(b.op("Relu", y), outputs, outputs, threes, ones, ones)
    y = b.batch_norm(y, outputs, gain=0.5)
    if stride != 1 or inputs != outputs:
        shortcut = b.conv(x, inputs, outputs, ones, strides, (0,) * spatial, gain=1.0)
        x = b.batch_norm(shortcut, outputs)
    return b.op("Relu", b.op("Add", y, x))


def _residual_stages(b: GraphBuilder, x: str, spatial: int) -> str:
    inputs = _RESNET_WIDTHS[0]
    for stage, width in enumerate(_RESNET_WIDTHS):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(b, x, inputs, width, stride, spatial)
            inputs = width
    return x


def resnet18(batch: int = 1, size: int = 224, seed: int = 0) -> onnx.ModelProto:
    """ResNet-18 for 1000 classes, input `(batch, 3, size, size)`.

    Source: He et al., arXiv:1512.03385, table 1; torchvision `resnet18`.
    """
    b = GraphBuilder("resnet18", seed)
    x = b.input("input", (batch, 3, size, size))
    x = b.op("Relu", b.batch_norm(b.conv(x, 3, 64, (7, 7), (2, 2), (3, 3), gain=1.0), 64))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=0)
    x = _residual_stages(b, x, spatial=2)
    return b.model({_classifier(b, x, 512, 1000): (batch, 1000)})


def resnet3d18(batch: int = 1, frames: int = 16, size: int = 112, seed: int = 0) -> onnx.ModelProto:
    """ResNet3D-18 for 400 classes, input `(batch, 3, frames, size, size)`.

    Source: Tran et al., arXiv:1711.11248; torchvision `video.r3d_18`.
    """
    b = GraphBuilder("resnet3d18", seed)
    x = b.input("input", (batch, 3, frames, size, size))
    x = b.conv(x, 3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), gain=1.0)
    x = _residual_stages(b, b.op("Relu", b.batch_norm(x, 64)), spatial=3)
    return b.model({_classifier(b, x, 512, 400): (batch, 400)})


def mobilenet_v2(batch: int = 1, size: int = 224, seed: int = 0) -> onnx.ModelProto:
    """MobileNetV2 (width 1.0) for 1000 classes, input `(batch, 3, size, size)`.

    Source: Sandler et al., arXiv:1801.04381; torchvision `mobilenet_v2`.
    """
    b = GraphBuilder("mobilenet_v2", seed)
    zero, six = b.scalar(0.0), b.scalar(6.0)

    def conv_relu6(
        x: str, inputs: int, outputs: int, kernel: int, stride: int, group: int, gain: float
    ) -> str:
        pad = (kernel // 2,) * 2
        size_2d = (kernel,) * 2
        y = b.conv(x, inputs, outputs, size_2d, (stride,) * 2, pad, group=group, gain=gain)
        return b.op("Clip", b.batch_norm(y, outputs), zero, six)

    x = b.input("input", (batch, 3, size, size))
    x = conv_relu6(x, 3, 32, kernel=3, stride=2, group=1, gain=1.0)
    inputs = 32
    for expansion, outputs, repeats, first_stride in _MOBILENET_V2:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            hidden = inputs * expansion
            y = x
            if expansion != 1:  # bottlenecks are linear: nothing to undo
                y = conv_relu6(y, inputs, hidden, kernel=1, stride=1, group=1, gain=1.0)
            y = conv_relu6(y, hidden, hidden, kernel=3, stride=stride, group=hidden, gain=2.0)
            residual = stride == 1 and inputs == outputs
            y = b.conv(y, hidden, outputs, (1, 1), (1, 1), (0, 0))
            y = b.batch_norm(y, outputs, gain=0.5 if residual else 1.0)
            x = b.op("Add", x, y) if residual else y
            inputs = outputs
    x = conv_relu6(x, inputs, 1280, kernel=1, stride=1, group=1, gain=1.0)
    return b.model({_classifier(b, x, 1280, 1000): (batch, 1000)})
