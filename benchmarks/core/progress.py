"""How work tells how far it is, without printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Update = Callable[..., None]
"""Called with steps done and steps in all; further arguments are ignored."""

Tasks = Callable[[str], AbstractContextManager[Update]]
"""Opens the display of one task by its description; closes it at the end of the block."""


@contextmanager
def silent(description: str) -> Iterator[Update]:
    """Display nothing.

    Example:
        >>> with silent("counting") as update:
        ...     update(1, 2)
    """
    yield lambda *_: None
