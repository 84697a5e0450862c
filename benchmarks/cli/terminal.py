"""The way to the terminal: what users, files and servers say is shown there, and never obeyed.

A terminal takes some characters for orders: to move, to hide, to rename its window. So whatever is
printed goes through here, and such characters become visible. What is printed is not here: see
`bench.py`.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from cgn.io.text import printable


class PlainConsole(Console):
    """A console for which strings are words: no markup, no emoji codes, nothing to obey.

    This holds for all that is laid out on it, too: cells, titles, captions.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text that shows it as it is."""
        return super().render_str(printable(text), **options | {"markup": False, "emoji": False})

    def on_broken_pipe(self) -> None:
        """Leave it to the program what follows if nobody reads on."""
        raise BrokenPipeError


def say(line: str, file: TextIO | None = None) -> None:
    """Print one line, in which nothing is an order to the terminal."""
    print(printable(line), file=file)


def console() -> Console:
    """Make the console for tables; wide where nobody's terminal is the limit."""
    return PlainConsole() if sys.stdout.isatty() else PlainConsole(width=160)
