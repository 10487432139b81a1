"""Search, free of TVM and ONNX: decisions and their spaces, measurements, the log, searchers.

A program asks for decisions (`choices`) and so spans a `space`; a searcher (`search` and those
beside it) proposes configurations of a space, somebody measures them as candidates of a `task`, and
the searcher and a `cost_model` are told. What was measured goes into the `log`, which `replay`
answers from.
"""
