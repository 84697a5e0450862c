"""Results that are computed once: each file is named by a hash of all that decides its content.

Beside data and settings these are code, libraries, and a network's structure.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FunctionType
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from cgn.io.locks import locked
from cgn.io.weights import load_tensors, save_tensors
from cgn.io.writing import require_room, sweep

ROOT = Path(__file__).parents[2]
PACKAGES = ("benchmarks", "cgn", "classifiers")
LIBRARIES = ("timm", "torch", "torchvision")  # whose layers are known by name and version
# What else decides the bits of results.
DECIDING = (*LIBRARIES, "numpy", "opencv-python", "opencv-python-headless", "pillow", "scipy")

Content = TypeVar("Content")
_LOG = logging.getLogger(__name__)


def cache_key(parts: object, code: Iterable[Path]) -> str:
    """Hash all that decides what a file holds, in 24 hexadecimal digits.

    These are parts that JSON can hold, the source files of the code, and the version of PyTorch.

    Example:
        >>> len(cache_key({"seed": 0}, []))
        24
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(code)]
    return hashlib.sha256(json.dumps([torch.__version__, parts, texts]).encode()).hexdigest()[:24]


def open_or_make(
    path: Path, open_: Callable[[Path], Content], make: Callable[[Path], None], *, n_bytes: int = 0
) -> Content:
    """Open a file of the cache; if it is missing or damaged, make it first.

    Whoever comes while another process makes the file waits for it, and opens it then.

    Args:
        path: The file.
        open_: Reads it; a ValueError says that it is damaged.
        make: Writes it, as a whole or not at all.
        n_bytes: How large it will be at least: a disk without the room is found before the work.

    Raises:
        ValueError: If there is no room.
        WriteError: If nothing can be written there.
    """
    if content := _open_whole(path, open_):
        sweep(path.parent)
        return content[0]
    with locked(path):
        if content := _open_whole(path, open_):  # another process has made it meanwhile
            return content[0]
        require_room(path.parent, n_bytes, "name another folder with CGN_BENCH_CACHE")
        make(path)
        return open_(path)


def _open_whole(path: Path, open_: Callable[[Path], Content]) -> tuple[Content, ...]:
    """Open a file, if it is there and whole: its content in a tuple, or an empty one."""
    if not path.is_file():
        return ()
    try:
        return (open_(path),)
    except (ValueError, KeyError, RuntimeError) as error:  # of tensors that fit no network
        # Its name says how to make a damaged file again: nobody has to be asked to delete it.
        _LOG.warning("%s is damaged and made anew: %s", path, " ".join(str(error).split())[:200])
        return ()


class Store(NamedTuple, Generic[Content]):
    """How results of one kind are kept in files.

    Attributes:
        save: Writes a result to a file, as a whole or not at all.
        load: Reads it; a ValueError says that the file is damaged.
    """

    save: Callable[[Content, Path], None]
    load: Callable[[Path], Content]


TENSOR: Store[Tensor] = Store(
    lambda tensor, path: save_tensors(path, {"tensor": tensor}, {}),
    lambda path: load_tensors(path, "tensor")[0]["tensor"],
)


def memo(
    function: Callable[..., Content],
    *arguments: object,
    folder: Path,
    store: Store[Content],
    n_bytes: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: object,
) -> Content:
    """Call a function, or open what an earlier call of it with the same arguments returned.

    The file's name has a hash of all that decides the result: the arguments' contents, the source
    of the function and of what it imports, versions of libraries, and the kind of device.

    Args:
        function: A public function of a module.
        arguments: Numbers, texts, tensors, modules, image sets, or sequences, mappings and
            dataclasses of these.
        folder: Where results are kept.
        store: How.
        n_bytes: As for `open_or_make`.
        device: Handed to the function, if it is given; its kind decides, not its number.
        progress: Handed to the function, if it is given; nothing depends on it.
        settings: Other keyword arguments of the function.

    Raises:
        TypeError: If an argument is of a kind whose content cannot be named.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for _ in range(2):
        ...         print(memo(torch.ones, 2, folder=Path(name), store=TENSOR))
        tensor([1., 1.])
        tensor([1., 1.])
    """
    name = f"{function.__module__}.{function.__qualname__}"
    kind = "cpu" if device is None else torch.device(device).type
    parts = [name, _content(arguments), _content(settings), kind, versions(*DECIDING)]
    path = folder / f"{function.__name__}-{cache_key(parts, sources(function.__module__))}"
    passed = {"device": device, "progress": progress}
    settings |= {name: value for name, value in passed.items() if value is not None}
    return open_or_make(
        path.with_suffix(".safetensors"),
        store.load,
        lambda path: store.save(function(*arguments, **settings), path),
        n_bytes=n_bytes,
    )


def _content(value: Any) -> object:
    """Name the content of an argument in JSON."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), weights_sha256({"": value})]
    if isinstance(value, nn.Module):
        return [architecture(value), weights_sha256(value.state_dict())]
    if hasattr(value, "fingerprint"):
        return [type(value).__name__, value.fingerprint()]
    if is_dataclass(value):
        return {field.name: _content(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _content(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_content(each) for each in value]
    raise TypeError(f"a {type(value).__name__} cannot be named in the key of a cache")


@cache
def sources(*modules: str) -> tuple[Path, ...]:
    """Find the source files of modules and of all of this project's that they import, sorted.

    Example:
        >>> [path.name for path in sources("cgn.device.distributed")]
        ['distributed.py']
    """
    paths: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in paths else _source(name)
        if path is not None:
            paths[name] = path
            waiting += _imports(path)
    return tuple(sorted(paths.values()))


def versions(*packages: str) -> dict[str, str]:
    """Look up the versions of installed packages; that of a missing one is empty.

    Example:
        >>> versions("no-such-package")
        {'no-such-package': ''}
    """
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = ""
    return installed


def weights_sha256(module: nn.Module | Mapping[str, Tensor]) -> str:
    """Hash the names and values of a module's weights."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        tensor = tensor.detach().cpu().contiguous().flatten()
        digest.update(tensor.view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return digest.hexdigest()


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
    return repr(value) if is_dataclass(value) else None


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


def _imports(path: Path) -> Iterator[str]:
    """List what a source file imports, anywhere in it, and what may be a module there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)
