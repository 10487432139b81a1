"""Networks and operators on a GPU, ours beside PyTorch, ONNX Runtime, TensorRT and TVM's tuner."""
