"""What a file is that is not what its name says: a page, a pointer, a server's error."""

from __future__ import annotations

HEAD_BYTES = 1_024  # that tell what a file is

_PAGE = ("is a web page", "download the file itself, not the page that shows it")
# How such files begin, in lower case: what they are, and the cure.
STAND_INS = {
    b"version https://git-lfs": (
        "is a Git-LFS pointer, not the file that it stands for",
        "run `git lfs pull` in its repository",
    ),
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": ("is an XML text", "it may be a server's error; download the file again"),
}


def beginning(head: bytes) -> bytes:
    """Give how a text begins, in lower case and without a mark of its encoding.

    Args:
        head: The first bytes of a file.

    Example:
        >>> beginning(bytes([0xEF, 0xBB, 0xBF]) + b" <HTML>")
        b'<html>'
    """
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()


def stand_in(head: bytes) -> tuple[str, str] | None:
    """Say what a file is that begins so, and the cure; None if it may be what its name says.

    Args:
        head: Its first bytes.

    Example:
        >>> stand_in(b"<html>")[0]
        'is a web page'
    """
    start = beginning(head)
    return next((said for begin, said in STAND_INS.items() if start.startswith(begin)), None)
