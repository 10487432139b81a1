"""Search, free of TVM and ONNX: decisions and their spaces, measurements, the log, searchers.

Empty for now. It will hold named decisions (`tile`, `one_of`, `order`) and the spaces that they
span, the protocols of tasks and measurers, the append-only tuning log, cost models, the ask/tell
searchers, and the two-stage driver that shares trials and seconds among tasks.
"""
