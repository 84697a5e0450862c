"""Only the command line prints. Which room may import which is checked by import-linter."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support import ROOT

TABLE = ROOT / "benchmarks" / "report" / "table.py"
CLI = ROOT / "benchmarks" / "cli"
FILES = sorted(
    path
    for package in ("benchmarks", "cgn", "classifiers")
    for path in (ROOT / package).rglob("*.py")
)

every_file = pytest.mark.parametrize(
    "path", FILES, ids=[path.relative_to(ROOT).as_posix() for path in FILES]
)


def imported_modules(tree: ast.AST) -> set[str]:
    """Names of the modules that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the arrows"
            names.add(node.module or "")
    return names


@every_file
def test_the_library_is_silent(path: Path) -> None:
    if path.is_relative_to(CLI):
        return
    tree = ast.parse(path.read_text())
    assert "print" not in called(tree)
    if path != TABLE:  # which lays tables out, and shows them to nobody
        assert not [name for name in imported_modules(tree) if name.split(".")[0] == "rich"]


def test_bench_only_starts_the_command_line() -> None:
    text = (ROOT / "bench.py").read_text()
    assert len(text.splitlines()) <= 30
    assert imported_modules(ast.parse(text)) == {"sys", "benchmarks.cli"}


def test_all_that_is_printed_goes_through_what_escapes_it() -> None:
    printing = []
    for path in sorted(CLI.rglob("*.py")):
        tree = ast.parse(path.read_text())
        assert "Console" not in called(tree), f"{path} takes rich's own"
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        printing += [f.name for f in functions if "print" in called(f)]
    assert printing == ["say"]


def called(tree: ast.AST) -> set[str]:
    """Names of functions that are called by their bare name."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in path.stem or "helper" in path.stem]
