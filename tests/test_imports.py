"""The arrows of the design: data flows one way, and only bench.py sees all of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "cgn": {"cgn"},
    "classifiers": {"classifiers", "cgn"},
    "benchmarks": {"benchmarks", "cgn"},
}
OURS = {*MAY_IMPORT, "bench"}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))

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


def imported(tree: ast.AST) -> set[str]:
    """Names of the top packages that a module imports, anywhere in it."""
    return {name.split(".")[0] for name in imported_modules(tree)}


@every_file
def test_a_package_imports_only_what_lies_below_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert imported(ast.parse(path.read_text())) & OURS <= MAY_IMPORT[package]


@every_file
def test_the_library_is_silent(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "print" not in {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    # A table of rich's is laid out, but nobody sees it before it is printed.
    modules = imported_modules(ast.parse(path.read_text())) - {"rich.table"}
    # Progress bars are drawn in one file, and only where bench.py opens a display of them; how
    # anything is shown is decided in one other.
    if path == ROOT / "benchmarks" / "progress.py":
        modules -= {"rich.console", "rich.progress"}
    if path == ROOT / "benchmarks" / "terminal.py":
        modules -= {"rich.console", "rich.text"}
    assert not [name for name in modules if name.split(".")[0] == "rich"]


@every_file
def test_only_the_command_line_opens_a_display(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert "progress_bars" not in {c.func.id for c in calls if isinstance(c.func, ast.Name)}


def test_the_command_line_joins_all_three() -> None:
    assert set(MAY_IMPORT) <= imported(ast.parse((ROOT / "bench.py").read_text()))


def test_all_that_is_printed_goes_through_what_escapes_it() -> None:
    tree = ast.parse((ROOT / "bench.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    printing = [f.name for f in functions if "print" in called(f)]
    assert printing == ["say"]
    for path in (*FILES, ROOT / "bench.py"):
        assert "Console" not in called(ast.parse(path.read_text())), f"{path} takes rich's own"


def called(tree: ast.AST) -> set[str]:
    """Names of functions that are called by their bare name."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.func.id for call in calls if isinstance(call.func, ast.Name)}


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if "util" in path.stem or "helper" in path.stem]
