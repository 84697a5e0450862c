"""What numbers settings may have, in one place for configs and for the command line.

A number beyond its range is a slip of the keyboard, or needs more memory or time than there is.
Which settings belong together is not here: see the configs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Attributes:
        low: Where it begins.
        high: Where it ends.
        without_low: Whether `low` itself lies outside.
        without_high: Whether `high` itself lies outside.
    """

    low: float
    high: float
    without_low: bool = False
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
    "combine": Range(1, 64),  # shapes in a picture
    "compare_fail": Range(0, 1, without_low=True),
    "ema_decay": Range(0, 1, without_high=True),
    "epochs": Range(0, 1_000_000),
    "images_per_step": Range(1, 10_000_000),
    "jpeg_quality": Range(1, 100),
    "n": Range(1, 1_000_000_000),  # images
    "n_counterfactuals": Range(1, 100_000_000),
    "ratio": Range(0, 1_000, without_low=True),
    "seconds": Range(1, 1_000_000),
    "seed": Range(0, 2**32 - 1),  # which every library takes
    "seeds": Range(1, 10_000),
    "shard_size": Range(1, 1_000_000),  # images
    "size": Range(8, 4_096),  # pixels
    "steps": Range(1, 1_000_000_000),
    "tile_px": Range(8, 1_024),
    "to": Range(0, 1_000_000),  # a label
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
    """Refuse a config in which a number is none, or lies outside of its range.

    Args:
        config: Its fields are looked up in `RANGES` by their names.
        but: Names of fields that mean something of their own and are no numbers of this kind.

    Raises:
        ValueError: If one does not fit; the message names it.
    """
    for field in fields(config):
        allowed = RANGES.get(field.name)
        if allowed is not None and field.name not in but:
            require(field.name, getattr(config, field.name), allowed, whole=field.type == "int")


def require(name: str, value: object, allowed: Range, *, whole: bool = False) -> None:
    """Refuse what is no number, or one outside of its range.

    Args:
        name: Of the setting, for the message.
        value: What it was set to, anything.
        allowed: Its range.
        whole: Whether it has to be a whole number.

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
