"""Paths as a user writes them."""

from __future__ import annotations

from pathlib import Path


def user_path(text: str) -> Path:
    """Read a path, with `~` for a home.

    Args:
        text: As it was typed.

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
