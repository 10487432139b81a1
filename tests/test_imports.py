"""Dependencies point one way: `alt` uses the other packages, and they do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("alt", "benchmarks", "primitives", "tuner", "tvm_patches")
MAY_IMPORT = {
    "alt": {"primitives", "tuner", "tvm_patches"},
    "benchmarks": {"alt", "primitives", "tuner"},
    "primitives": set(),
    "tuner": set(),
    "tvm_patches": set(),
}
FOREIGN = {"tuner": {"tvm", "tvm_ffi", "onnx"}}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of every package, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: set[str], *, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; submodules where `from package import submodule`.

    With `at_import_time`, only what runs when the module itself is imported: nothing inside
    functions or under `if TYPE_CHECKING`.
    """
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(str(module), names, 0):
                for alias in names:
                    full = f"{module}.{alias.name}"
                    yield full if full in known else module
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if at_import_time:
                continue
            case ast.If(ast.Name("TYPE_CHECKING")) if at_import_time:
                continue
            case _:
                yield from imports(node, known, at_import_time=at_import_time)


def edges(*, at_import_time: bool) -> list[tuple[str, str]]:
    found = modules()
    return [
        (name, target)
        for name, path in found.items()
        for target in imports(
            ast.parse(path.read_text()), set(found), at_import_time=at_import_time
        )
    ]


def test_every_package_is_seen():
    assert {name.partition(".")[0] for name in modules()} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    forbidden = (set(PACKAGES) - {package} - MAY_IMPORT[package]) | FOREIGN.get(package, set())
    wrong = [
        f"{source} imports {target}"
        for source, target in edges(at_import_time=False)
        if source.partition(".")[0] == package and target.partition(".")[0] in forbidden
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    graph = nx.DiGraph(
        (source, target) for source, target in edges(at_import_time=True) if source != target
    )
    graph.remove_nodes_from([node for node in graph if node.partition(".")[0] not in PACKAGES])
    assert list(nx.simple_cycles(graph)) == []


def test_imports_are_found_wherever_they_hide():
    source = """
import a.b
from c import d, e
if TYPE_CHECKING:
    import f
def g():
    import h
class I:
    import j
"""
    tree, known = ast.parse(source), {"c", "c.d"}
    assert set(imports(tree, known)) == {"a.b", "c.d", "c", "f", "h", "j"}
    assert set(imports(tree, known, at_import_time=True)) == {"a.b", "c.d", "c", "j"}
