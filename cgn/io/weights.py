"""Weights in files: read without running anything in them, and refused with what is wrong.

Both formats, safetensors and PyTorch's own, are told apart by their content and not by a name.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cgn.io.errors import HEAD_BYTES, STAND_INS, beginning
from cgn.io.schema import parsed, shown
from cgn.io.writing import written

Network = TypeVar("Network", bound=nn.Module)
COUNTER = "num_batches_tracked"  # old checkpoints lack it, and nothing is computed from it
MOST = 1_000_000  # values of a checkpoint that are looked at
SAVE_WEIGHTS = (
    "where it was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
)
AGAIN = "copy or download it again"
CUT_SHORT = "is cut short"
# How other files begin, in lower case: what such a file is, and the cure.
BEGINNINGS = STAND_INS | {
    b"{": ("is a JSON text", "name the file of the weights that it is about"),
    b"\x1f\x8b": ("is compressed with gzip", "unpack it first"),
    b"bzh": ("is compressed with bzip2", "unpack it first"),
    b"\xfd7zxz": ("is compressed with xz", "unpack it first"),
    b"7z\xbc\xaf": ("is a 7z archive", "unpack it first"),
    b"\x89hdf": ("is an HDF5 file, as Keras writes them", "convert it to PyTorch's state dict"),
    b"\x93numpy": ("is a NumPy array", "save a state dict with torch.save"),
    b"gguf": ("is a GGUF file", "take the safetensors of the same network"),
    b"\x89png": ("is a picture", "name a file of weights"),
    b"\xff\xd8\xff": ("is a picture", "name a file of weights"),
}


def read_stored(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file of weights, safetensors or what `torch.save` wrote; nothing in it is run.

    Returns:
        What it holds: tensors by name or, of a checkpoint, whatever was put around them. Each
        tensor is a plain one, no larger than what the file has for it.

    Raises:
        ValueError: If it cannot be read; the message says what it is instead, and the cure.
    """
    head = _head(path)
    if not _is_safetensors(head):
        _require_weights(path, head)
    try:
        if _is_safetensors(head):
            stored: Any = load_file(path, device=str(device))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats, which the message says better
                stored = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # the unpickler raises whatever it stumbles over
        raise ValueError(f"{path} {'; '.join(_fault(error))}") from None
    for name, tensor in islice(_tensors(stored), MOST):
        if fault := _odd(tensor):
            raise ValueError(f"{path}: {shown(name)[1:-1]} {fault}; {SAVE_WEIGHTS}")
    return stored


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict, from names to tensors; `module.` before the names is taken off.

    Raises:
        ValueError: If the file cannot be read, or holds something else.
    """
    stored = read_stored(path)
    if (
        not isinstance(stored, Mapping)
        or not stored
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in stored.items())
    ):
        raise ValueError(f"{path} holds no plain state dict, from names to tensors; {SAVE_WEIGHTS}")
    return {name.removeprefix("module."): tensor for name, tensor in stored.items()}


def read_checkpoint(
    path: Path, parts: Collection[str], device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read the checkpoint of a training of one's own.

    Raises:
        ValueError: If it cannot be read, or lacks one of the parts.
    """
    cure = "delete it to start anew"
    try:
        stored = read_stored(path, device)
    except ValueError as error:
        raise ValueError(f"{error}; or, as it is a checkpoint, {cure}") from None
    lacks = sorted(set(parts) - set(stored)) if isinstance(stored, Mapping) else sorted(parts)
    if lacks:
        raise ValueError(f"{path} is no checkpoint of this training, it lacks {lacks[0]}; {cure}")
    return dict(stored)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn what a damaged checkpoint raises while it is taken up into one sentence."""
    try:
        yield
    except ValueError:
        raise
    except (KeyError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} does not fit this training ({reason}); delete it to start anew"
        ) from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors, memory-mapped, and the header that is kept beside them as JSON.

    Raises:
        ValueError: If there is no such file, or it is not a whole safetensors file.
    """
    anew = "delete it and make it anew"
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("json", "{}")
        tensors = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as error:  # the library has errors of its own, and Python's
        head = _head(path)
        what, cure = (_kind(head) if head else None) or (_fault(error)[0], anew)
        raise ValueError(f"{path} is not a whole safetensors file (it {what}); {cure}") from None
    header = parsed(text, f"the header of {path}")
    if not isinstance(header, dict):
        raise ValueError(f"the header of {path} is no mapping of names to values; {anew}")
    return tensors, header


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write tensors and a JSON-able header to a safetensors file, atomically."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with written(path) as place:
        save_file(plain, place, {"json": json.dumps(metadata)})


def load_tensors(path: Path, *needed: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors, memory-mapped, and the header.

    Raises:
        ValueError: If there is no whole safetensors file, or it lacks a needed tensor.
    """
    tensors, header = read_safetensors(path)
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"{path} lacks {missing[0]}; delete it and make it anew")
    return tensors, header


def fill_described(
    build: Callable[[], Network], tensors: Mapping[str, Tensor], what: object
) -> Network:
    """Build a network as its file's header describes it, and give it the file's weights.

    It is built without memory first: a header may describe a network of any size.

    Raises:
        ValueError: If description and weights differ.
    """
    try:
        with torch.device("meta"):
            problem = misfit(build(), tensors)
        if not problem:
            network = build()
            network.load_state_dict(dict(tensors))
            return network
    except (RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError) as error:
        problem = " ".join(str(error).split())[:200]
    raise ValueError(f"{what}: weights and config differ: {problem}")


def misfit(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Say how weights do not fit a network; empty if they do.

    Example:
        >>> misfit(nn.Linear(2, 1), {"weight": torch.ones(1, 3), "bias": torch.ones(1)})
        'weight is of (1, 3) there, and of (1, 2) in the network'
    """
    own = network.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTER)]
    unknown = [name for name in tensors if name not in own]
    for what, names in (("lacks", missing), ("has, beyond the network's,", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"it {what} {shown(names[0])[1:-1]}{more}"
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            stored, expected = tuple(tensor.shape), tuple(own[name].shape)
            return f"{name} is of {stored} there, and of {expected} in the network"
    return ""


def _head(path: Path) -> bytes:
    """Read how a file begins."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then JSON."""
    return head[8:9] == b"{" and head[:1] != b"{" and head[5:8] == bytes(3)


def _require_weights(path: Path, head: bytes) -> None:
    """Refuse what is told from its first bytes, and archives that unpack to more than they hold."""
    if fault := _kind(head):
        raise ValueError(f"{path} {'; '.join(fault)}")
    try:
        if not zipfile.is_zipfile(path) and not head.startswith(b"PK"):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # zipfile raises errors of many kinds, also where it only looks
        raise ValueError(f"{path} {CUT_SHORT}; {AGAIN}") from None
    if not any(member.filename.endswith(("data.pkl", "constants.pkl")) for member in members):
        raise ValueError(f"{path} is a zip archive without weights; unpack it first")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError(
            f"{path} claims to hold more bytes than it has, as no file of torch.save does; {AGAIN}"
        )


def _kind(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that begins so, and the cure; None if it may hold weights."""
    if not head:
        return "is empty", AGAIN
    start = beginning(head)
    return next((said for begin, said in BEGINNINGS.items() if start.startswith(begin)), None)


def _fault(error: Exception) -> tuple[str, str]:
    """Say what is wrong with a file by what reading it raised, and the cure.

    Libraries' own words are not passed on: they are long, and advise to run what the file holds.
    """
    text = str(error)
    if program := re.search(r"GLOBAL ([\w.]+)", text):
        what = f"holds more than weights ({program[1]}), which would have to be run to be read"
        return what, SAVE_WEIGHTS
    if "TorchScript" in text:
        return "is a TorchScript program, no weights alone", SAVE_WEIGHTS
    if "legacy .tar" in text:
        return "is in a format from before PyTorch 0.1.10", SAVE_WEIGHTS
    short = ("central directory", "unexpected EOF", "truncated", "not fully covered", "Incomplete")
    if isinstance(error, (EOFError, struct.error)) or any(each in text for each in short):
        return CUT_SHORT, AGAIN
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "asks for more memory than there is", "it may be damaged"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})", AGAIN
    return "is no file of weights, or a damaged one", f"{AGAIN}, or {SAVE_WEIGHTS}"


def _tensors(stored: Any, name: str = "", depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Go through all tensors in dicts and lists."""
    if isinstance(stored, Tensor):
        yield name, stored
    elif depth and isinstance(stored, Mapping):
        for key, value in stored.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key), depth - 1)
    elif depth and isinstance(stored, (list, tuple)):
        for i, value in enumerate(stored):
            yield from _tensors(value, f"{name}[{i}]", depth - 1)


def _odd(tensor: Tensor) -> str:
    """Say why a tensor is none that a network can take; empty if it is."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        return "is sparse, quantised or without values"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims {tensor.numel():,} values of which the file has fewer"
    return ""
