"""What decides a result beside data and weights: code, libraries, and a network's structure.

Keys of caches are made of these, so that nothing is taken for what it only resembles.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "cgn", "classifiers")
LIBRARIES = ("timm", "torch", "torchvision")  # whose layers are known by name and version


@cache
def sources(*modules: str) -> tuple[Path, ...]:
    """Find the source files of modules and of all of this project's that they import.

    Args:
        modules: Their full names.

    Returns:
        The files, sorted.

    Example:
        >>> [path.name for path in sources("cgn.device.distributed")]
        ['distributed.py']
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in found else _source(name)
        if path is not None:
            found[name] = path
            waiting += _imported(path)
    return tuple(sorted(found.values()))


def versions(*packages: str) -> dict[str, str]:
    """Look up the versions of installed packages; that of a missing one is empty.

    Example:
        >>> versions("no-such-package")
        {'no-such-package': ''}
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def architecture(module: nn.Module) -> str:
    """Hash what a module computes beside its weights: two may have the same tensors.

    Its parts count with their classes, settings, hooks and the buffers that are not saved; classes
    of libraries by their version, all others by their source.

    Example:
        >>> same = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=0)
        >>> architecture(same[0]) == architecture(same[1])
        False
    """
    digest = hashlib.sha256(repr(versions(*LIBRARIES)).encode())
    saved = module.state_dict().keys()
    for name, part in module.named_modules():
        kind = type(part)
        digest.update(f"{name} {kind.__module__}.{kind.__qualname__} {part.extra_repr()}".encode())
        digest.update(repr(sorted(_settings(part))).encode())
        if kind.__module__.partition(".")[0] not in LIBRARIES:
            digest.update(_code(kind).encode())
    for name, buffer in module.named_buffers():
        if name not in saved:
            own = buffer.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + own.numpy().tobytes())
    return digest.hexdigest()


def _settings(part: nn.Module) -> Iterator[tuple[str, str]]:
    """List what a module keeps beside tensors and modules, as text."""
    for name, value in vars(part).items():
        if not name.startswith("_") and name != "training" and (text := _text(value)) is not None:
            yield name, text
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        for hook in getattr(part, hooks).values():
            yield hooks, _text(hook) or type(hook).__qualname__


def _text(value: Any) -> str | None:
    """Say a setting in words that are the same in each process; None if that is not known."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.Size)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return repr([_text(each) for each in value])
    if isinstance(value, (FunctionType, type)):
        return f"{value.__module__}.{value.__qualname__}"
    return None


def _code(kind: type) -> str:
    """Read the source of a class; empty where there is none."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def _source(name: str) -> Path | None:
    """Find a module of this project; None for what is none."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    place = ROOT.joinpath(*parts)  # nothing is imported: that would go round in circles
    files = place.with_suffix(".py"), place / "__init__.py"
    return next((file for file in files if file.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    """List what a source file imports, anywhere in it, and what may be a module there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
