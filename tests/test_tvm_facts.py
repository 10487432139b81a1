"""What we rely on, or work around, in TVM 0.27: an upgrade that changes one of these fails here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tvm
from tvm import s_tir, te, tirx

pytestmark = pytest.mark.llvm


def test_transform_layout_accepts_colliding_maps():
    """Why legality is ours: rows 0 and 2, 1 and 3 land in the same place."""
    a = te.placeholder((4, 4), name="a")
    b = te.compute((4, 4), lambda i, j: a[i, j] + 1.0, name="b")
    schedule = s_tir.Schedule(te.create_prim_func([a, b]))
    schedule.transform_layout(schedule.get_sblock("b"), ("write", 0), lambda i, j: (i % 2, j))
    shapes = [tuple(int(e) for e in p.ty.shape) for p in schedule.mod["main"].params]
    assert (2, 4) in shapes


def test_index_maps_default_to_64_bits():
    assert "int64" in str(tirx.IndexMap.from_func(lambda i: [i // 4, i % 4]).initial_indices[0].ty)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two logical CPUs")
def test_half_of_the_cpus_are_taken_for_smt_siblings():
    """Why `alt.threads` sets TVM_NUM_THREADS."""
    code = "import tvm; print(tvm.get_global_func('runtime.NumThreads')())"
    environment = {k: v for k, v in os.environ.items() if k != "TVM_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < (os.cpu_count() or 1)


def test_version_these_facts_are_about():
    assert tvm.__version__.startswith("0.27")
