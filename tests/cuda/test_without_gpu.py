"""Tests on a GPU with a driver that emulates: host code, launches and artifacts are the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulated import needs_gxx
from gxx import HEADERS

pytestmark = [pytest.mark.cuda_build, needs_gxx]
HERE = Path(__file__).parent
DRIVER = HERE / "driver"
SHARED = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC"]

DETECT = """
import tvm
device = tvm.runtime.cuda(0)
print(device.exist, tvm.get_global_func("ffi.Module.create.cuda", allow_missing=True) is not None)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a process that finds our driver, and our nvcc."""
    folder = tmp_path_factory.mktemp("driver")
    versions = folder / "versions.map"
    versions.write_text("libcudart.so.13 { global: *; };\n")
    runtime, driver = folder / "libcudart.so.13", folder / "libcuda.so.1"
    linking = [f"-Wl,--version-script={versions}", f"-Wl,-soname,{runtime.name}", "-ldl"]
    sources = [str(DRIVER / "driver.cc"), str(HEADERS / "emulation.cc"), f"-I{HEADERS}"]
    command = [*SHARED, *sources, "-o", str(runtime), *linking]
    subprocess.run(command, check=True)
    needed = ["-Wl,--no-as-needed", "-x", "c++", "/dev/null", "-x", "none", str(runtime)]
    named = [f"-Wl,-soname,{driver.name}", "-Wl,-rpath,$ORIGIN"]
    subprocess.run([*SHARED, *needed, "-o", str(driver), *named], check=True)
    found = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(
            [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        ),
        "PATH": os.pathsep.join([str(DRIVER), os.environ.get("PATH", "")]),
        "ALT_FAKE_SM": "90",
    }
    probe = [sys.executable, "-c", DETECT]
    seen = subprocess.run(probe, env=found, capture_output=True, text=True)
    if seen.stdout.split() != ["True", "True"]:
        pytest.skip(f"TVM's CUDA runtime does not load with our driver: {seen.stderr[-500:]}")
    return found


@pytest.mark.parametrize(
    ("files", "marks"),
    [
        (["test_on_gpu.py", "test_graphs_on_gpu.py", "test_clock_on_gpu.py"], "gpu"),
        (["test_tuning_on_gpu.py"], "gpu and not slow"),
        pytest.param(["test_tuning_on_gpu.py"], "gpu and slow", marks=pytest.mark.slow),
    ],
)
def test_everything_that_runs_on_a_gpu(environment, files, marks):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks]
    done = subprocess.run(
        [*command, *(str(HERE / file) for file in files)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout
