"""Text of users, files and servers, made safe to print and to name files by."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Replace each character that is not printed as itself by its escape.

    Controls, ends of lines, marks of direction and halves of characters could move, hide or rename
    what a terminal shows.

    Example:
        >>> print(printable("a\x1b[2Jb\r\u202ec é"))
        a\x1b[2Jb\r\u202ec é
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
