"""Headers and settings that come from files: each is checked against a dataclass.

A file may come from another version, another program, or be damaged. Whatever is wrong with what
it says becomes one sentence that names it; what a dataclass does not say about its fields in types
(ranges, say) stands in its `__post_init__`.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

Checked = TypeVar("Checked")
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
LONGEST = 60  # characters of a file's own words in a message


def checked(kind: type[Checked], found: object, where: object, *, open_: bool = False) -> Checked:
    """Make a dataclass of what a file says.

    Args:
        kind: The dataclass. Its fields may be numbers, texts, truth values, tensors, literals,
            lists, tuples, mappings, other dataclasses, and unions of these.
        found: What the file says: a mapping from its fields to values.
        where: The file, and maybe the place within, for the message.
        open_: Whether it may say more than the dataclass has fields for, which is left out.

    Raises:
        ValueError: If a field is missing, unknown, or of another kind.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Size:
        ...     width: int
        ...     height: int = 1
        >>> checked(Size, {"width": 3}, "a.json")
        Size(width=3, height=1)
        >>> checked(Size, {"width": "3"}, "a.json")
        Traceback (most recent call last):
        ValueError: a.json: width must be a whole number, it is '3'
    """
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, it is {shown(found)}")
    own = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if not open_ and (unknown := [name for name in found if name not in own]):
        raise ValueError(
            f"{where}: {shown(unknown[0])} is unknown here; it may come from another version"
        )
    needed = [
        name
        for name, field in own.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in found]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], found[name], where, name) for name in own if name in found}
    try:
        return kind(**values)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def parsed(text: str | bytes, where: object) -> Any:
    """Read JSON.

    Raises:
        ValueError: If it is none; the message says where it comes from.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # too deep, too large a number, no UTF-8
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise ValueError(f"{where} is no JSON: {reason}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: If it cannot be read, or is no JSON.
    """
    try:
        return parsed(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def shown(value: object) -> str:
    r"""Show what a file says in a message: short, and without what a terminal would obey.

    Example:
        >>> shown("\x1b[31mred")
        "'\\x1b[31mred'"
    """
    text = repr(value) if isinstance(value, (str, int, float, bool, bytes)) or value is None else ""
    text = text or f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _value(hint: Any, found: object, where: object, name: str) -> Any:
    """Check one value against a type, and give it that type."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return found
    if kind in (Union, types.UnionType):
        return _one_of(inner, found, where, name)
    if kind is Literal:
        if found in inner and type(found) in map(type, inner):
            return found
        raise _wrong(where, name, f"one of {', '.join(map(str, inner))}", found)
    if is_dataclass(hint):
        return checked(hint, found, f"{where}: {name}")  # type: ignore[arg-type]
    if kind in (list, tuple) and isinstance(found, (list, tuple)):
        return _sequence(kind, inner, found, where, name)
    if kind is not None and issubclass(kind, Mapping) and isinstance(found, Mapping):
        keys, values = inner
        return {
            _value(keys, key, where, f"a name of {name}"): _value(
                values, value, where, f"{shown(key)} of {name}"
            )
            for key, value in found.items()
        }
    if hint is float and type(found) in (int, float) and math.isfinite(found):  # type: ignore[arg-type]
        return float(found)  # type: ignore[arg-type]
    if hint in (int, str, bool) and type(found) is hint:  # True is an int to Python
        return found
    if hint is Tensor and isinstance(found, Tensor):
        return found
    if hint in (dict, list) and isinstance(found, hint):
        return found
    plain = kind or hint
    words = "a list" if plain in (list, tuple) else f"a {getattr(plain, '__name__', plain)}"
    raise _wrong(where, name, WORDS.get(plain, words), found)


def _one_of(hints: tuple[Any, ...], found: object, where: object, name: str) -> Any:
    """Check a value against several types."""
    if found is None and type(None) in hints:
        return None
    problems = []
    for hint in (each for each in hints if each is not type(None)):
        try:
            return _value(hint, found, where, name)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _sequence(
    kind: type, inner: tuple[Any, ...], found: list[Any] | tuple[Any, ...], where: object, name: str
) -> Any:
    """Check the parts of a list or a tuple."""
    if kind is list or inner[-1] is Ellipsis:
        hints = [inner[0]] * len(found)
    elif len(inner) != len(found):
        raise _wrong(where, name, f"a list of {len(inner)}", f"{len(found)} values")
    else:
        hints = list(inner)
    return kind(
        _value(hint, each, where, f"{name}[{i}]")
        for i, (hint, each) in enumerate(zip(hints, found, strict=True))
    )


def _wrong(where: object, name: str, wanted: str, found: object) -> ValueError:
    """What to raise about a value."""
    return ValueError(f"{where}: {name} must be {wanted}, it is {shown(found)}")
