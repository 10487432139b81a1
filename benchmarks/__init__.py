"""Benchmarks: networks built from code, timed side by side with ONNX Runtime and OpenVINO."""
