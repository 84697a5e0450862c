"""Tables as CSV text that is safe in a spreadsheet: no cell is a formula, and a row is a line.

Source:
    OWASP, CSV Injection. https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

from typing import TypeVar

import pandas as pd

Cell = TypeVar("Cell")

MARK = "'"  # which spreadsheets take for "what follows is text"
_FORMULA = ("=", "+", "-", "@", MARK)


def guarded(cell: Cell) -> Cell | str:
    r"""Mark a text that a spreadsheet would compute, or that would not stay on its line.

    Args:
        cell: Anything; what is no text stays as it is, so that a negative number is a number.

    Example:
        >>> guarded("=1+1"), guarded(-0.5), guarded("cgn-ensemble")
        ("'=1+1", -0.5, 'cgn-ensemble')
        >>> print(guarded("a\nb"))
        'a\nb
    """
    if not isinstance(cell, str) or (cell.isprintable() and not cell.startswith(_FORMULA)):
        return cell
    whole = cell.encode(errors="backslashreplace").decode()  # halves of characters fit no table
    return MARK + whole.encode("unicode_escape").decode("ascii")


def unguarded(text: str) -> str:
    """Return what `guarded` was given.

    Example:
        >>> unguarded(guarded("=1+1")), unguarded("cgn-ensemble")
        ('=1+1', 'cgn-ensemble')
    """
    if not text.startswith(MARK):
        return text
    try:
        return text[1:].encode("ascii").decode("unicode_escape")
    except UnicodeError:  # somebody else put the mark there
        return text


def csv_text(table: pd.DataFrame) -> str:
    """Write a table as CSV, the names of its columns first.

    Example:
        >>> csv_text(pd.DataFrame({"model": ["=1+1", "cgn"], "gap": [-0.5, 0.0]})).splitlines()
        ['model,gap', "'=1+1,-0.5", 'cgn,0.0']
    """
    safe = table.copy()
    for name in table.select_dtypes(["object", "string"]):
        safe[name] = table[name].map(guarded)
    return safe.to_csv(index=False, lineterminator="\n")
