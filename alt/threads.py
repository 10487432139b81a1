"""TVM's thread pool, with as many threads as asked for.

TVM assumes that every second logical CPU is an SMT sibling and starts half as many workers as it
sees. It reads `TVM_NUM_THREADS` once a calling thread, when that thread first runs a kernel; the
pool belongs to the calling thread. So the variable is set for that moment, and put back.
"""

from __future__ import annotations

import os
import threading
import warnings

import tvm

_VARIABLE = "TVM_NUM_THREADS"
_state = threading.local()
_starting = threading.Lock()


def use_threads(count: int, most: int) -> None:
    """Let kernels that the calling thread starts run on `count` threads.

    Args:
        count: threads for the next kernels.
        most: the largest count that will be asked for on this machine; the pool is made this big.
    """
    if getattr(_state, "count", None) == count:
        return
    configure = tvm.get_global_func("runtime.config_threadpool")
    if not hasattr(_state, "count"):
        with _starting:
            before = os.environ.get(_VARIABLE)
            os.environ[_VARIABLE] = str(max(count, most))
            try:
                configure(1, count)
            finally:
                if before is None:
                    del os.environ[_VARIABLE]
                else:
                    os.environ[_VARIABLE] = before
    else:
        configure(1, count)
    running = int(tvm.get_global_func("runtime.NumThreads")())
    if running != count:
        warnings.warn(
            f"asked for {count} threads, but TVM's pool in this thread has {running}: it was "
            f"started before ALT; set {_VARIABLE}={count} before the first use of TVM",
            RuntimeWarning,
            stacklevel=3,
        )
    _state.count = count
