"""TVM's thread pool, with as many threads as asked for.

TVM assumes that every second logical CPU is an SMT sibling and starts half as many workers as it
sees. `TVM_NUM_THREADS` overrides that; it is read when a thread first runs a parallel kernel, which
makes that thread's pool, so the variable has to stay set. How much of the pool is used can be
changed at any time.
"""

from __future__ import annotations

import os
import threading
import warnings

import tvm

_VARIABLE = "TVM_NUM_THREADS"
_state = threading.local()


def use_threads(count: int, most: int) -> None:
    """Let kernels that the calling thread starts run on `count` threads.

    Args:
        count: threads for the next kernels.
        most: the largest count that will be asked for on this machine; the pool is made this big.
    """
    if getattr(_state, "count", None) == count:
        return
    configure = tvm.get_global_func("runtime.config_threadpool")
    before = os.environ.get(_VARIABLE, "")
    enough = max(count, most, int(before) if before.isdigit() else 0)
    os.environ[_VARIABLE] = str(enough)
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
