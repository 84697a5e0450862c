"""Settings and headers of files, checked against dataclasses and against ranges of numbers.

A file may come from another version, another program, or be damaged: whatever is wrong with what
it says becomes one sentence that names it.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Checked = TypeVar("Checked")
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
LONGEST = 60  # characters of a file's own words in a message


def checked(kind: type[Checked], value: object, where: object, *, open_: bool = False) -> Checked:
    """Make a dataclass of what a file says.

    Args:
        kind: The dataclass. Its fields may be numbers, texts, truth values, tensors, literals,
            lists, tuples, mappings, other dataclasses, and unions of these.
        value: What the file says: a mapping from its fields to values.
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
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, it is {shown(value)}")
    own = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if not open_ and (unknown := [name for name in value if name not in own]):
        raise ValueError(
            f"{where}: {shown(unknown[0])} is unknown here; it may come from another version"
        )
    needed = [
        name
        for name, field in own.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    hints = get_type_hints(kind)
    values = {name: _value(hints[name], value[name], where, name) for name in own if name in value}
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


def _value(hint: Any, value: object, where: object, name: str) -> Any:
    """Check one value against a type, and give it that type."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if kind in (Union, types.UnionType):
        return _one_of(inner, value, where, name)
    if kind is Literal:
        if value in inner and type(value) in map(type, inner):
            return value
        raise _wrong(where, name, f"one of {', '.join(map(str, inner))}", value)
    if is_dataclass(hint):
        return checked(hint, value, f"{where}: {name}")  # type: ignore[arg-type]
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return _sequence(kind, inner, value, where, name)
    if kind is not None and issubclass(kind, Mapping) and isinstance(value, Mapping):
        keys, values = inner
        return {
            _value(keys, key, where, f"a name of {name}"): _value(
                values, item, where, f"{shown(key)} of {name}"
            )
            for key, item in value.items()
        }
    if hint is float and type(value) in (int, float) and math.isfinite(value):  # type: ignore[arg-type]
        return float(value)  # type: ignore[arg-type]
    if hint in (int, str, bool) and type(value) is hint:  # True is an int to Python
        return value
    if hint is Tensor and isinstance(value, Tensor):
        return value
    if hint in (dict, list) and isinstance(value, hint):
        return value
    plain = kind or hint
    words = "a list" if plain in (list, tuple) else f"a {getattr(plain, '__name__', plain)}"
    raise _wrong(where, name, WORDS.get(plain, words), value)


def _one_of(hints: tuple[Any, ...], value: object, where: object, name: str) -> Any:
    """Check a value against several types."""
    if value is None and type(None) in hints:
        return None
    problems = []
    for hint in (each for each in hints if each is not type(None)):
        try:
            return _value(hint, value, where, name)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _sequence(
    kind: type, inner: tuple[Any, ...], value: list[Any] | tuple[Any, ...], where: object, name: str
) -> Any:
    """Check the parts of a list or a tuple."""
    if kind is list or inner[-1] is Ellipsis:
        hints = [inner[0]] * len(value)
    elif len(inner) != len(value):
        raise _wrong(where, name, f"a list of {len(inner)}", f"{len(value)} values")
    else:
        hints = list(inner)
    return kind(
        _value(hint, each, where, f"{name}[{i}]")
        for i, (hint, each) in enumerate(zip(hints, value, strict=True))
    )


def _wrong(where: object, name: str, wanted: str, value: object) -> ValueError:
    """What to raise about a value."""
    return ValueError(f"{where}: {name} must be {wanted}, it is {shown(value)}")


@dataclass(frozen=True)
class Range:
    """An interval of numbers."""

    low: float
    high: float
    without_low: bool = False  # whether `low` itself lies outside
    without_high: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number lies inside; what is no number, NaN, never does."""
        above = self.low < value if self.without_low else self.low <= value
        return above and (value < self.high if self.without_high else value <= self.high)

    def __str__(self) -> str:
        """Write it as in mathematics.

        Example:
            >>> str(Range(0, 1, without_high=True)), str(Range(1, 1_000_000))
            ('[0, 1)', '[1, 1,000,000]')
        """
        ends = f"{self.low:,}, {self.high:,}"
        return f"{'[('[self.without_low]}{ends}{'])'[self.without_high]}"

    def problem(self, value: float) -> str:
        """Say what is wrong with a number; empty if nothing is.

        Example:
            >>> Range(0, 1).problem(2), Range(1, 9).problem(0), Range(0, 1).problem(0.5)
            ('must lie in [0, 1], got 2', 'must be positive, got 0', '')
        """
        if value in self:
            return ""
        if value <= 0 < self.high - 1 and (self.low == 1 or self.without_low):
            return f"must be positive, got {value}"
        return f"must lie in {self}, got {value}"


RANGES = {
    "batch_size": Range(1, 65_536),  # images
    "checkpoint_minutes": Range(0, 100_000),
    "checkpoint_steps": Range(1, 1_000_000_000),
    "compare_fail": Range(0, 1, without_low=True),
    "ema_decay": Range(0, 1, without_high=True),
    "epochs": Range(0, 1_000_000),
    "generators": Range(1, 10_000),
    "images": Range(2, 1_000_000_000),
    "images_per_step": Range(1, 10_000_000),
    "jpeg_quality": Range(1, 100),
    "n": Range(1, 1_000_000_000),  # images
    "n_counterfactuals": Range(1, 100_000_000),
    "points": Range(0, 100, without_low=True),  # of percent
    "power": Range(0.05, 1, without_low=True, without_high=True),
    "ratio": Range(0, 1_000, without_low=True),
    "seconds": Range(1, 1_000_000),
    "seed": Range(0, 2**32 - 1),  # which every library takes
    "seeds": Range(1, 10_000),
    "shard_size": Range(1, 1_000_000),  # images
    "size": Range(8, 4_096),  # pixels
    "steps": Range(1, 1_000_000_000),
    "tile_px": Range(8, 1_024),
    "truncation": Range(0, 1, without_low=True),
    "weight_decay": Range(0, 10),
    "width": Range(1, 1_024),  # channels
}
RANGES |= {
    name: Range(0, 10, without_low=True)
    for name in (
        "background_learning_rate",
        "critic_learning_rate",
        "learning_rate",
        "shape_learning_rate",
        "texture_learning_rate",
    )
}
LOSS_WEIGHT = Range(0, 1e12)


def require_in_range(config: DataclassInstance, *, but: tuple[str, ...] = ()) -> None:
    """Refuse a config in which a number is none, or lies outside of its range in `RANGES`.

    Fields named in `but` mean something of their own and are no numbers of this kind.

    Raises:
        ValueError: If one does not fit; the message names it.
    """
    for field in fields(config):
        allowed = RANGES.get(field.name)
        if allowed is not None and field.name not in but:
            require(field.name, getattr(config, field.name), allowed, whole=field.type == "int")


def require(name: str, value: object, allowed: Range, *, whole: bool = False) -> None:
    """Refuse what is no number, no whole one if it has to be, or one outside of its range.

    Raises:
        ValueError: If it does not fit.

    Example:
        >>> require("ema_decay", 2, RANGES["ema_decay"])
        Traceback (most recent call last):
        ValueError: ema_decay must lie in [0, 1), got 2
    """
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if problem := allowed.problem(value):
        raise ValueError(f"{name} {problem}")


def user_path(text: str) -> Path:
    """Read a path as a user types it, with `~` for a home.

    Raises:
        ValueError: If there is nothing, or no such home.

    Example:
        >>> user_path("a/b.txt").name, user_path("~/a") == Path.home() / "a"
        ('b.txt', True)
    """
    if not text:
        raise ValueError("expected a path, got nothing")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home {text.partition('/')[0]}, as in {text}") from None
