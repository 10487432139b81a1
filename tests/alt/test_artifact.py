"""Saved modules: what comes back, what is refused, and what is left on disk."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_models import arithmetic, network, random
from tvm.support import cc

import alt
from alt import artifact, linker
from alt.module import random_inputs
from alt.processor import architecture, features_here
from alt.target import physical_cores

pytestmark = pytest.mark.llvm

ROOT = Path(__file__).parent.parent.parent
IMAGE = random(1, 3, 15, 17, seed=7)
FOREIGN = "x86_64-linux-gnu" if architecture() == "aarch64" else "aarch64-linux-gnu"


@pytest.fixture(scope="module")
def compiled():
    return alt.compile(network(), threads=1)


@pytest.fixture(scope="module")
def saved(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "network.alt"
    compiled.save(path)
    return path


def rewritten(source, path, **changes):
    """A copy of an artifact with another header."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "alt.json":
                content = json.dumps({**json.loads(content), **changes}).encode()
            new.writestr(name, content)
    return path


def refused(path, *mentioned):
    """Loading fails with one line that mentions the file and what matters."""
    with pytest.raises(alt.AltError) as caught:
        alt.load(path)
    message = str(caught.value)
    assert "\n" not in message
    for text in (str(path), *mentioned):
        assert text in message
    return message


# What comes back


@pytest.mark.parametrize("model", [network, arithmetic])
def test_a_loaded_module_is_the_saved_one(model, tmp_path):
    module = alt.compile(model())
    inputs = random_inputs(module.inputs, 3)
    expected = module(**inputs)
    module.save(tmp_path / "m.alt")
    loaded = alt.load(tmp_path / "m.alt")
    assert loaded.inputs == module.inputs
    assert loaded.outputs == module.outputs
    for a, b in zip(loaded(**inputs), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["m.alt"]


def test_a_loaded_module_can_be_saved_again(saved, tmp_path):
    alt.load(saved).save(tmp_path / "again.alt")
    assert (tmp_path / "again.alt").read_bytes() == saved.read_bytes()


def test_it_loads_elsewhere_without_onnx_or_the_compiler(compiled, saved, tmp_path):
    script = """
import sys
import numpy as np
import alt
y, f = alt.load(sys.argv[1])(np.load(sys.argv[2]))
np.savez(sys.argv[3], y=y, f=f)
needless = {"onnx", "networkx", "primitives", "tvm_patches", "alt.compiler", "alt.build"}
print(sorted(needless & set(sys.modules)))
"""
    np.save(tmp_path / "x.npy", IMAGE)
    result = subprocess.run(
        [sys.executable, "-c", script, saved, tmp_path / "x.npy", tmp_path / "y.npz"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    found = np.load(tmp_path / "y.npz")
    y, f = compiled(IMAGE)
    np.testing.assert_array_equal(found["y"], y)
    np.testing.assert_array_equal(found["f"], f)


def test_the_file_is_a_plain_archive_whose_weights_are_mapped(compiled, saved):
    with zipfile.ZipFile(saved) as archive:
        assert archive.namelist() == ["alt.json", "code.so", "weights.bin"]
        assert archive.testzip() is None
        assert archive.read("weights.bin") == compiled.weights.tobytes()
    weights = alt.load(saved).weights
    assert weights.ctypes.data % 4096 == 0
    assert not weights.flags.owndata


def test_running_does_not_change_the_file(saved):
    before = saved.read_bytes()
    module = alt.load(saved)
    module(IMAGE)
    module.weights[:] = 0  # the module's own business
    assert saved.read_bytes() == before


def test_archives_packed_by_other_programs_load(saved, compiled, tmp_path):
    path = rewritten(saved, tmp_path / "m.alt")
    np.testing.assert_array_equal(alt.load(path)(IMAGE)[0], compiled(IMAGE)[0])


def test_a_loaded_module_survives_its_file(saved, compiled, tmp_path):
    path = tmp_path / "m.alt"
    path.write_bytes(saved.read_bytes())
    module = alt.load(path)
    alt.compile(arithmetic()).save(path)
    np.testing.assert_array_equal(module(IMAGE)[0], compiled(IMAGE)[0])
    path.unlink()
    np.testing.assert_array_equal(module(IMAGE)[0], compiled(IMAGE)[0])


def test_threads_are_those_asked_for(saved, tmp_path):
    assert alt.load(saved).threads == 1
    assert alt.load(saved, threads=2).threads == 2
    alt.compile(network()).save(tmp_path / "any.alt")
    assert alt.load(tmp_path / "any.alt").threads == physical_cores()
    with pytest.raises(alt.AltError, match="at least 1"):
        alt.load(saved, threads=0)


# What is refused


def test_missing_files_and_folders(tmp_path):
    assert "no such file" in refused(tmp_path / "gone.alt")
    assert "folder" in refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"x", b"PK\x03\x04", b"PK\x03\x04" + bytes(500), b"\x7fELF" + bytes(500)]
)
def test_other_files(content, tmp_path):
    (tmp_path / "m.alt").write_bytes(content)
    refused(tmp_path / "m.alt", "not an artifact")


def test_another_archive(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.zeros(3))
    refused(tmp_path / "m.npz", "not an artifact")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_files_cut_short(part, saved, tmp_path):
    content = saved.read_bytes()
    (tmp_path / "m.alt").write_bytes(content[: int(part * len(content))])
    refused(tmp_path / "m.alt", "damaged" if part else "empty")


@pytest.mark.parametrize("member", ["alt.json", "code.so", "weights.bin"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_wrong_bit_anywhere(member, where, saved, tmp_path):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive, archive.open(member) as stream:
        start, size = stream._orig_compress_start, archive.getinfo(member).file_size
    content[start + int(where * (size - 1))] ^= 1
    (tmp_path / "m.alt").write_bytes(content)
    refused(tmp_path / "m.alt", "damaged")


def test_a_newer_format(saved, tmp_path):
    path = rewritten(saved, tmp_path / "m.alt", format=artifact.FORMAT + 1)
    refused(path, str(artifact.FORMAT + 1), "newer ALT")


def test_another_cpu(saved, tmp_path, compiled):
    target = compiled.header["target"]
    other = {**target, "arch": "riscv64", "mcpu": "sifive-x280"}
    message = refused(rewritten(saved, tmp_path / "a.alt", target=other), "riscv64", "sifive-x280")
    assert architecture() in message
    richer = {**target, "features": [*target["features"], "avx1024"]}
    refused(rewritten(saved, tmp_path / "b.alt", target=richer), "avx1024", "lacks")


def test_code_for_this_machine_needs_only_what_it_has(compiled):
    assert set(compiled.header["target"]["features"]) <= features_here()
    assert features_here() or architecture() not in ("x86_64", "aarch64")


# Targets that are not this machine


def test_modules_for_another_architecture_can_be_saved_but_not_run(tmp_path):
    module = alt.compile(network(), {"kind": "llvm", "mtriple": FOREIGN})
    for run in (lambda: module(IMAGE), module.benchmark, module.explain):
        with pytest.raises(alt.AltError, match="cannot run here") as caught:
            run()
        assert FOREIGN.partition("-")[0] in str(caught.value)
    module.save(tmp_path / "m.alt")
    refused(tmp_path / "m.alt", FOREIGN.partition("-")[0], architecture())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 CPUs")
def test_modules_for_a_lesser_cpu_run_here(tmp_path, compiled):
    module = alt.compile(network(), {"kind": "llvm", "mcpu": "x86-64-v3"})
    module.save(tmp_path / "m.alt")
    found = alt.load(tmp_path / "m.alt")(IMAGE)
    np.testing.assert_allclose(found[0], compiled(IMAGE)[0], rtol=1e-4, atol=1e-4)
    assert not any("512" in name for name in module.header["target"]["features"])


def test_code_that_was_not_linked_is_linked_where_it_loads(compiled, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(linker, "linker_for", lambda target: None)
        compiled.save(tmp_path / "m.alt")
    with zipfile.ZipFile(tmp_path / "m.alt") as archive:
        assert "code.o" in archive.namelist()
    found = alt.load(tmp_path / "m.alt")(IMAGE)
    np.testing.assert_array_equal(found[0], compiled(IMAGE)[0])


# What is left on disk


def test_without_a_c_compiler_nothing_is_written(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(cc, "get_cc", lambda: None)
    with pytest.raises(alt.AltError, match="needs a C compiler"):
        compiled.save(tmp_path / "m.alt")
    monkeypatch.setattr(cc, "get_cc", lambda: "/nowhere/gcc")
    with pytest.raises(alt.AltError, match="/nowhere/gcc"):
        compiled.save(tmp_path / "m.alt")
    monkeypatch.setattr(cc, "get_cc", lambda: "/bin/false")
    with pytest.raises(alt.AltError, match=r"cannot link .* /bin/false"):
        compiled.save(tmp_path / "m.alt")
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_module_needs_no_c_compiler(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(cc, "get_cc", lambda: None)
    alt.load(saved).save(tmp_path / "m.alt")
    assert alt.load(tmp_path / "m.alt")(IMAGE)[0].shape == (1, 10)


def test_a_failed_write_leaves_what_was_there(compiled, tmp_path, monkeypatch):
    (tmp_path / "m.alt").write_bytes(b"old")
    write = artifact._write_member

    def full(archive, name, content):
        if name == "weights.bin":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(archive, name, content)

    monkeypatch.setattr(artifact, "_write_member", full)
    with pytest.raises(alt.AltError, match="No space left") as caught:
        compiled.save(tmp_path / "m.alt")
    assert str(tmp_path / "m.alt") in str(caught.value)
    assert (tmp_path / "m.alt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_places_that_cannot_be_written(compiled, tmp_path):
    with pytest.raises(alt.AltError, match="is a folder"):
        compiled.save(tmp_path)
    with pytest.raises(alt.AltError, match="no folder"):
        compiled.save(tmp_path / "gone" / "m.alt")
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(compiled, tmp_path):
    compiled.save(tmp_path / "m.alt")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.alt").stat().st_mode == (tmp_path / "other").stat().st_mode
